"""Batches as they are run: processes, Dask, parts, two at a time, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import VoxelMorphRegistrationLib
from batch_cases import quick, whole, write_blobs, write_table
from small_models import save_centroid_model
from VoxelMorphRegistrationLib import batch
from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.batch import dask
from VoxelMorphRegistrationLib.batch.pair import Pair
from VoxelMorphRegistrationLib.batch.summary import read_summary
from VoxelMorphRegistrationLib.errors import Cancelled, InputError, OutputError, SettingsError
from VoxelMorphRegistrationLib.registration.files import PairFiles

LIBRARY = Path(VoxelMorphRegistrationLib.__file__).parent


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(rows, settings) of four pairs."""
    folder = tmp_path_factory.mktemp("study")
    fixed, *moving = write_blobs(folder, 4)
    return [{"fixed": fixed, "moving": name} for name in moving], quick(save_centroid_model(folder / "model.pt"))


def test_a_table_is_done_by_processes_and_told(study, tmp_path, capsys):
    rows, settings = study
    (tmp_path / "settings.json").write_text(settings.to_json())
    rows = [{"id": f"p{n}", **row} for n, row in enumerate(rows)] + [{"id": "bad", "fixed": "f", "moving": "none"}]
    table = write_table(tmp_path / "pairs.csv", [*rows, {"id": "worse", "fixed": "f"}])
    command = ["batch", table, "-o", tmp_path / "out", "--settings", tmp_path / "settings.json", "--jobs", "2"]
    command = [*map(str, command), "--keep", "transform", "warped"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "line 7: There is no moving image" in printed.err and "bad: " in printed.err
    assert "4 of 5 pairs, 1 failed" in printed.out
    assert whole(tmp_path / "out", {"transform.h5", "warped.nii.gz"}) == {f"p{n}": True for n in range(4)}
    found = {row["id"]: row["state"] for row in read_summary(tmp_path / "out" / "summary.csv")}
    assert found == {**{f"p{n}": "done" for n in range(4)}, "bad": "failed", "line 7": "failed"}
    # The model was trusted or loaded in each process; a second run has nothing to do, and starts none.
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "pairs").rglob("*.h5")}
    assert main(command) == 1
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "pairs").rglob("*.h5")}


def test_python_runs_rows_and_says_how_far_it_is(study, tmp_path, inside):
    rows, settings = study
    told = []
    done = batch.run(rows, tmp_path, settings=settings, keep=["transform"], progress=lambda *a: told.append(a))
    assert (done.done, done.failed) == (4, {}) and VoxelMorphRegistrationLib.batch is batch
    assert [text.split(",")[0] for _, text in told] == [f"{n} of 4 pairs" for n in (1, 2, 3, 4)]
    assert (tmp_path / "index.html").exists() and (tmp_path / "pairs" / "m00-to-fixed" / "report.json").exists()


def test_what_is_no_pair_is_told_in_python(study, tmp_path, inside):
    """Tuples of names, ids that lead out of the folder, an id twice: nothing is left out without a word."""
    rows, settings = study
    done = batch.run([(rows[0]["fixed"], rows[0]["moving"])], tmp_path)
    assert done.done == 0 and "is no dictionary" in done.failed["pair 1"]
    files = PairFiles(**rows[0])
    with pytest.raises(InputError, match="cannot name a folder"):
        batch.run([Pair("../x", files, settings)], tmp_path)
    done = batch.run([Pair("x", files, settings), Pair("X", files, settings)], tmp_path, keep=["transform"])
    assert done.done == 1 and "that of pair 1" in done.failed["pair 2"]


def test_parts_are_disjoint_and_together_all(study, tmp_path, inside):
    rows, settings = study
    for number in (1, 2, 3):
        batch.run(rows, tmp_path, settings=settings, keep=["transform"], part=(number, 3))
        states = [row["state"] for row in read_summary(tmp_path / "summary.csv")]
        assert states.count("done") == {1: 2, 2: 3, 3: 4}[number]
    with pytest.raises(SettingsError, match="no part 4 of 3"):
        batch.run(rows, tmp_path, part=(4, 3))


def test_progress_that_says_no_ends_the_batch(study, tmp_path, inside):
    rows, settings = study
    with pytest.raises(Cancelled, match="1 of 4 pairs are done"):
        batch.run(rows, tmp_path, settings=settings, keep=["transform"], progress=lambda *a: False)


def test_a_full_disk_ends_the_batch_with_what_to_do(study, tmp_path, inside, monkeypatch):
    from VoxelMorphRegistrationLib.results import outputs

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    rows, settings = study
    monkeypatch.setattr(outputs, "write_field", full)
    with pytest.raises(OutputError, match="Free some space and start again.*0 of 4 pairs are done"):
        batch.run(rows, tmp_path, settings=settings, keep=["transform"])


def test_lists_give_pairs(study, tmp_path, inside, capsys):
    rows, settings = study
    (tmp_path / "s.json").write_text(settings.to_json())
    names = [rows[0]["fixed"], *(row["moving"] for row in rows)]
    common = ["--settings", str(tmp_path / "s.json"), "--keep", "transform"]
    assert main(["batch", "--fixed", names[0], "--moving-list", *names[1:3], "-o", str(tmp_path / "a"), *common]) == 0
    assert {path.name for path in (tmp_path / "a" / "pairs").iterdir()} == {"m00-to-fixed", "m01-to-fixed"}
    assert main(["batch", "--all-pairs", *names[:3], "--both-ways", "-o", str(tmp_path / "b"), *common]) == 0
    assert len(list((tmp_path / "b" / "pairs").iterdir())) == 6
    assert main(["batch", "--fixed", names[0], "-o", str(tmp_path / "c"), *common]) == 1
    assert main(["batch", "-o", str(tmp_path / "c"), *common]) == 1
    assert main(["batch", "--all-pairs", *names[:2], "--keep", "x", "-o", str(tmp_path / "c")]) == 1
    assert "There is no result 'x'" in capsys.readouterr().err


def start(rows, settings, tmp_path, *options) -> subprocess.Popen:
    (tmp_path / "settings.json").write_text(settings.to_json())
    table = write_table(tmp_path / "pairs.csv", rows)
    command = [sys.executable, "-m", "VoxelMorphRegistrationLib", "batch", table, "-o", tmp_path / "out"]
    command += ["--settings", tmp_path / "settings.json", "--keep", "transform", *options]
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY.parent)}
    return subprocess.Popen([*map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_killed_processes_and_a_second_batch_cost_nothing(study, tmp_path, inside):
    """One process is killed at work, the batch itself then interrupted; two others end it side by side, one here."""
    rows, settings = study
    out = tmp_path / "out"
    first = start(rows, settings, tmp_path, "--jobs", "1")
    wait_for(lambda: list(out.glob("pairs/*/.voxelmorph-*")))
    (victim,) = psutil.Process(first.pid).children()
    victim.kill()
    wait_for(lambda: list(out.glob("pairs/*/job.json")) or first.poll() is not None)
    first.send_signal(signal.SIGTERM)
    printed = first.communicate(timeout=60)[0].decode()
    assert first.returncode in (0, 130), printed
    assert first.returncode == 0 or "the same command goes on from there" in printed
    second = start(rows, settings, tmp_path, "--jobs", "1")
    assert batch.run(rows, out, settings=settings, keep=["transform"], jobs=1).failed == {}
    end = second.communicate(timeout=120)[0].decode()
    assert second.returncode == 0, end
    assert whole(out, {"transform.h5"}) == {f"m{n:02}-to-fixed": True for n in range(4)}
    # Each was done once: no file is newer than its report says.
    assert not list(out.glob("pairs/*/.voxelmorph*")) and not list((out / "failed").iterdir())


def test_dask_does_the_pairs_and_outlives_a_worker(study, tmp_path, monkeypatch):
    """Workers in this process, one of which is closed: its pair goes to the other."""
    import distributed

    rows, settings = study
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, protocol="inproc://"
    )
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        closed = []

        def progress(outcome, text):
            if not closed:
                closed.append(next(iter(client.scheduler_info()["workers"])))
                client.retire_workers(closed)

        done = batch.run(rows, tmp_path, settings=settings, keep=["transform"], dask=client, progress=progress)
        assert (done.done, done.failed) == (4, {}) and closed
        again = batch.run(rows, tmp_path, settings=settings, keep=["transform"], dask=client.scheduler.address)
        assert again.done == 4
    assert whole(tmp_path, {"transform.h5"}) == {f"m{n:02}-to-fixed": True for n in range(4)}


def test_queues_of_clusters_get_jobs_of_dask_jobqueue(tmp_path):
    options = {"cores": 2, "memory": "4GB", "walltime": "01:00:00"}
    with dask.cluster_of("slurm", options) as cluster:
        script = cluster.job_script()
    assert "#SBATCH --cpus-per-task=2" in script and "-t 01:00:00" in script
    with pytest.raises(InputError, match="options of the pbs cluster do not do"):
        dask.cluster_of("pbs", {"cores": 2})


def test_options_of_the_command_that_do_not_go(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("fixed,moving\nf,m\n")
    (tmp_path / "bad.json").write_text("[1]")
    (tmp_path / "good.json").write_text('{"cores": 2}')
    for options, message in (
        (["--part", "x"], "Write i/n"),
        (["--part", "3/2"], "no part 3 of 2"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--dask", "tcp://127.0.0.1:1", "--dask-options", str(tmp_path / "bad.json")], "must be a JSON object"),
        (["--labels", "x.nii"], "are those of --moving"),
        (["--both-ways"], "goes with --all-pairs"),
        (["--dask-options", str(tmp_path / "good.json")], "no --dask"),
        (["--dask", "tcp://127.0.0.1:1", "--threads", "2"], "leave --threads out"),
    ):
        assert main(["batch", str(tmp_path / "t.csv"), "-o", str(tmp_path / "out"), *options]) == 1
        assert message in capsys.readouterr().err


def test_an_atlas_labels_without_those_of_the_others_are_refused_before_any_pair_fails(tmp_path, capsys):
    command = ["batch", "--fixed", "atlas.nii", "--moving-list", "a.nii", "b.nii", "--labels", "l.nii"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 1
    assert "give that as --moving" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_table_without_pairs_is_no_study_that_is_done(tmp_path, capsys):
    for name, text, message in (
        ("t.csv", "fixed,moving\n\n", "has no pair below its first line"),
        ("t.jsonl", "\n", "is empty"),
        ("e.csv", "", "is empty"),
    ):
        (tmp_path / name).write_text(text)
        assert main(["batch", str(tmp_path / name), "-o", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_last_line_counts_the_rows_that_are_no_pairs(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("id,fixed,moving\na,f.nii,m.nii\na,f.nii,n.nii\nb,f.nii,\n")
    assert main(["batch", str(tmp_path / "t.csv"), "-o", str(tmp_path / "out"), "--jobs", "1"]) == 1
    assert "0 of 1 pairs, 1 failed" in (out := capsys.readouterr().out) and "2 more rows are no pair" in out


def test_a_table_is_not_replaced_by_the_summary(study, tmp_path, capsys):
    table = write_table(tmp_path / "summary.csv", study[0])
    before = table.read_bytes()
    assert main(["batch", str(table), "-o", str(tmp_path), "--summary"]) == 1
    assert "would be replaced by the summary" in capsys.readouterr().err and table.read_bytes() == before
    with pytest.raises(InputError, match="would be replaced by the summary"):
        batch.run(table, tmp_path)


def test_only_the_summary_is_written_on_demand(study, tmp_path):
    table = write_table(tmp_path / "t.csv", study[0])
    (tmp_path / "out").mkdir()
    assert main(["batch", str(table), "-o", str(tmp_path / "out"), "--summary"]) == 0
    assert {row["state"] for row in read_summary(tmp_path / "out" / "summary.csv")} == {"open"}
    assert json.dumps([path.name for path in sorted((tmp_path / "out").iterdir())]) == '["index.html", "summary.csv"]'
