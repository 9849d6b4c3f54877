"""A process of a batch: does pairs that its input names, a JSON object a line, and answers on its output.

in:  {"root", "kept", "trust_model"} first; {"pair"}: do it; {"go"}: it may begin
out: {"needs", "free"}: the memory that the pair will take, and what is free; {"outcome"}
A thread reads the input, so that its end (the batch ended, however it did) ends this process at once: what it was
writing is cleared away by the next one.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping

from .job import do
from .pair import Pair
from .places import Places


def main() -> int:
    # Ctrl-C in a terminal reaches all its processes: the batch itself ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, sink = _streams()
    faulthandler.enable()
    messages: queue.SimpleQueue[dict] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(source, messages), daemon=True).start()

    def send(**message) -> None:
        try:
            sink.write(json.dumps(message).encode() + b"\n")
            sink.flush()
        except OSError:
            os._exit(1)

    def ask(needs: Mapping[str, int], free: Mapping[str, int]) -> None:
        send(needs=dict(needs), free=dict(free))
        messages.get()

    first = messages.get()
    places = Places(first["root"], first["kept"])
    while True:
        pair = Pair.from_dict(messages.get()["pair"])
        send(outcome=do(pair, places, ask, trust_model=first["trust_model"]).to_dict())


def _streams():
    """Input and output for messages alone; what libraries print goes to the standard error."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return source, sink


def _read(source, messages: queue.SimpleQueue[dict]) -> None:
    for line in source:
        messages.put(json.loads(line))
    os._exit(0)
