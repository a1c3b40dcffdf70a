"""The command behind ``scripts/peer_suite.sh``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

import torch

from tests.support.peer.stand_ins import TARGETS, write_stand_ins
from tests.support.peer.suite import run_target, table


def main() -> int:
    """Run what is asked for; returns 1 where something passes alone and neither passes nor is refused sharded."""
    parser = argparse.ArgumentParser(prog="peer_suite.sh", description=__doc__)
    parser.add_argument("tree", type=Path, help="source tree of diffusers")
    parser.add_argument("targets", nargs="*", default=TARGETS, help="folders or files below tests/pipelines")
    parser.add_argument("--only", default="", metavar="EXPRESSION", help="which tests, as pytest's -k takes it")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--limit", type=float, default=240.0, help="seconds that a test may take")
    parser.add_argument("--keep", type=Path, help="absolute path of a new folder for logs")
    parser.add_argument("--alone", action="store_true", help="say why tests fail alone, too")
    arguments = parser.parse_args()
    tests = arguments.tree.absolute() / "tests" / "pipelines"
    if arguments.keep and (not arguments.keep.is_absolute() or arguments.keep.exists()):
        parser.error("--keep needs the absolute path of a folder that does not exist yet")
    missing = [target for target in arguments.targets if not (tests / target).exists()]
    if missing:
        parser.error(f"there is no {tests / missing[0]}; name the source tree of diffusers, with its tests")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the ranks end as well
    torch.set_num_threads(1)  # of which none has to survive a fork
    found, whole = {}, True
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        if "PEER_STAND_INS" in os.environ:
            write_stand_ins(Path(os.environ["PEER_STAND_INS"]), [tests / target for target in arguments.targets])
        for target in arguments.targets:
            try:
                found[target] = run_target(
                    tests.parents[1],
                    f"tests/pipelines/{target}",
                    folder / target.replace("/", "-"),
                    ranks=arguments.ranks,
                    limit=arguments.limit,
                    only=arguments.only,
                )
            except RuntimeError as error:
                print(error, file=sys.stderr)
                whole = False
                continue
            print(table({target: found[target]}), flush=True)
            for test in found[target] if arguments.alone else ():
                if test.result in {"failed", "not spread"}:
                    print(f"{test.result}: {test.test}\n    {' '.join(test.said.split())[:200]}")
    if len(found) > 1:
        print("\n", table(found), sep="")
    bad = {test.result for tests in found.values() for test in tests} & {"fails", "differs", "no answer"}
    return int(bool(bad) or not whole)


if __name__ == "__main__":
    sys.exit(main())
