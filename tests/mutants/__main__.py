"""Fence mutants: ``python -m tests.mutants [NAME...] [--with TEST...]``.

Takes each fence of the protocol away in turn, in a copy of the tree, and runs the tests that ought to notice. NAME
picks the mutants whose names contain it. ``--with`` runs other tests than those of the table, to see what they catch.
Exits with 1 if a mutant survived, cannot be applied any more, or broke the tests instead of failing one.
"""

import argparse
import sys
import time

from tests.mutants.sandbox import Broken, Inapplicable, Sandbox, sandbox
from tests.mutants.table import MUTANTS, Mutant


def main(words: list[str]) -> int:
    """Run the mutants that the words name and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of a mutant's name; all when none is given")
    parser.add_argument("--with", nargs="+", dest="tests", metavar="TEST", help="run these tests instead")
    chosen = parser.parse_args(words)
    mutants = [mutant for mutant in MUTANTS if not chosen.names or any(name in mutant.name for name in chosen.names)]
    if not mutants:
        print("No mutant has such a name.")
        return 1
    began = time.monotonic()
    with sandbox() as place:
        tests = chosen.tests or sorted({test for mutant in mutants for test in mutant.tests})
        if failed := place.failure(tests):
            print(f"Without any mutant {failed} fails already, so nothing would be proved.")
            return 1
        caught = sum(_is_caught(place, mutant, chosen.tests or list(mutant.tests)) for mutant in mutants)
    print(f"{caught} of {len(mutants)} mutants caught in {time.monotonic() - began:.0f} s.")
    return int(caught != len(mutants))


def _is_caught(place: Sandbox, mutant: Mutant, tests: list[str]) -> bool:
    try:
        failed = place.failure(tests, mutant)
    except (Inapplicable, Broken) as error:
        print(f"{mutant.name}: ERROR {error}", flush=True)
        return False
    print(f"{mutant.name}: {f'caught by {failed}' if failed else 'SURVIVED'}", flush=True)
    return failed is not None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
