"""`voxelmorph models list | describe | check | import`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ModelError, OutputError
from .terminal import EXIT_OK, add_trust


def add_models(commands) -> None:
    parser = commands.add_parser("models", help="list, describe, check and import model files")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the shipped models")
    listing.set_defaults(run=_models_list)
    describe = actions.add_parser("describe", help="all facts of a model")
    describe.add_argument("model", metavar="NAME|FILE")
    describe.set_defaults(run=_models_describe)
    check = actions.add_parser("check", help="load a model file and run it once")
    check.add_argument("model", metavar="FILE")
    add_trust(check)
    check.set_defaults(run=_models_check)
    importing = actions.add_parser(
        "import",
        help="convert a model from elsewhere",
        description="Converts published VoxelMorph Keras weights (.h5), or a network of TorchScript (.pt) or "
        "torch.export (.pt2) that returns a flow or (moved, field), to a model file with its facts inside.",
    )
    importing.add_argument("file", metavar="FILE")
    importing.add_argument("-o", "--output", metavar="OUT", required=True, help="model file to write (.pt)")
    importing.add_argument("--name", help="name of the model (default: the file's)")
    importing.add_argument("--facts", metavar="JSON", help="facts of a network of others (see the README)")
    importing.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    add_trust(importing)
    importing.set_defaults(run=_models_import)


def _models_list(_: argparse.Namespace) -> int:
    from ..networks.model import read_card
    from ..networks.shelf import find_model, model_names

    for name in model_names():
        card = read_card(find_model(name))
        print(f"{name:<16} {card.dimension}D  {card.description}")
    return EXIT_OK


def _models_describe(args: argparse.Namespace) -> int:
    from ..networks.model import read_card
    from ..networks.shelf import find_model

    print(read_card(find_model(args.model)).to_json())
    return EXIT_OK


def _models_check(args: argparse.Namespace) -> int:
    from ..networks.model import check_model, load_model

    model = load_model(args.model, trust=args.trust_model)
    found = check_model(model)
    print(
        f"{args.model} is a usable {model.card.dimension}D model '{model.card.name}': "
        f"{found['parameters']} parameters, "
        f"{'x'.join(map(str, found['input']))} voxels in, {'x'.join(map(str, found['output']))} out."
    )
    if model.card.shape is not None:
        print(f"It is locked to {'x'.join(map(str, model.card.shape))} voxels: images are resampled to that grid.")
    return EXIT_OK


def _models_import(args: argparse.Namespace) -> int:
    from ..networks.importers import import_foreign, import_keras
    from ..networks.model import save_model
    from ..transforms.written import check_free

    output = Path(args.output)
    if output.exists() and not args.overwrite:
        raise OutputError(f"{output} exists. Give another name, or --overwrite to replace it.")
    check_free(output, True, [args.file, _facts_file(args)])
    if Path(args.file).suffix in (".h5", ".hdf5"):
        network, card = import_keras(args.file, args.name)
    else:
        network, card = import_foreign(args.file, _facts(args), args.name, trust=args.trust_model)
    save_model(network, card, output)
    print(f"Wrote {output}: {card.dimension}D model '{card.name}'.")
    return EXIT_OK


def _facts_file(args: argparse.Namespace) -> Path:
    return Path(args.facts) if args.facts else Path(args.file).with_suffix(".json")


def _facts(args: argparse.Namespace) -> dict:
    from ..networks.card import read_facts

    path = _facts_file(args)
    if not path.exists():
        raise ModelError(
            f"A network of others does not say what it expects, and there is no {path}. Give its facts as a JSON "
            "file with --facts (dimension, spacing_mm, output, output_scale, returns, shape, ...)."
        )
    return read_facts(path)
