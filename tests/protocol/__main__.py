"""`python -m tests.protocol`: check the protocol within all bounds; or refute a mutant and print how."""

import argparse
import sys
import time

from tests.protocol.checker import Checker, Verdict
from tests.protocol.model import Bounds, Protocol, World
from tests.protocol.mutants import MUTANTS
from tests.protocol.worlds import LIMITS, WORLDS


def check(protocol: Protocol, bounds: Bounds, *, states: int | None = None, loops: bool = False) -> Verdict:
    """Return what exploring the protocol within the bounds finds, all of it or so many states."""
    return Checker(World(protocol, bounds).model()).run(most_states=states, loops=loops)


def say(line: str) -> None:
    """Print a line now."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Do what was asked for; 0 if it came out as it should."""
    refutable = {protocol.__name__: protocol for protocol in (*MUTANTS.values(), *LIMITS)}
    parser = argparse.ArgumentParser(prog="python -m tests.protocol", description=__doc__)
    parser.add_argument("--mutant", choices=["all", *refutable], help="what to refute")
    parser.add_argument("--world", choices=WORLDS, action="append", help="these bounds only")
    parser.add_argument("--states", type=int, metavar="N", help="stop after N states")
    parser.add_argument("--loops", action="store_true", help="look also for fair runs that never end")
    options = parser.parse_args()
    if options.mutant:
        chosen = refutable if options.mutant == "all" else {options.mutant: refutable[options.mutant]}
        return _refute(chosen, options.states)
    worlds = options.world or list(WORLDS)
    states, began, spent, right = 0, time.perf_counter(), time.process_time(), True
    for name in worlds:
        verdict = check(Protocol(), WORLDS[name], states=options.states, loops=options.loops)
        say(f"{name:<14} {verdict}")
        if verdict.violation:
            say(str(verdict.violation))
        states += verdict.states
        right = right and verdict.violation is None and verdict.fair_runs_end is not False
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - spent
    say(f"{len(worlds)} worlds, {states:,} states, {took_s:.1f} s ({cpu_s:.1f} s of one core)")
    return 0 if right else 1


def _refute(chosen: dict[str, type[Protocol]], states: int | None) -> int:
    survivors = []
    for name, mutant in chosen.items():
        verdict = check(mutant(), mutant.bounds, states=states)
        say(f"{name}: {(mutant.__doc__ or '').splitlines()[0]}\n{verdict}")
        if verdict.violation:
            say(f"{verdict.violation}\n")
        else:
            survivors.append(name)
    say(", NOT ".join([f"{len(chosen) - len(survivors)} of {len(chosen)} refuted", *survivors]))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
