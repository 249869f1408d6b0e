"""The command: run a campaign, or check one that was run."""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import get_args

import click
import uvloop

from tests.chaos import broken, campaign, checker, report
from tests.chaos.history import EngineName, Reader
from tests.chaos.plan import KINDS, Topology, plan

HELP = """
Runs Sibyl's real processes (a Redis, two APIs, three workers with an engine whose answers are known beforehand), lets
clients loose on them that ask, follow, leave, cancel and erase, and breaks everything that can break, as a seed says.
Then it heals all, waits for the ends, and checks every log and every client's view against the promises of
Backend/README.md.

Exit code: 0 all promises kept, 1 one was broken, 2 no verdict. With --break: 0 if the checker noticed.
"""
EXAMPLES = """
examples:
  python -m tests.chaos                                   a minute of everything
  python -m tests.chaos --seconds 1800 --seed 42          half an hour
  python -m tests.chaos --faults kill-worker,power-loss   only these
  python -m tests.chaos --topology sentinel               a primary, a replica, three sentinels
  python -m tests.chaos --topology sentinel --durability ha
  python -m tests.chaos --engine llama --seconds 20       llama.cpp with a programmed model
  python -m tests.chaos --break append-fence              must FAIL: a fence is removed
  python -m tests.chaos --plan --seed 7                   what would be done, and when
  python -m tests.chaos --check FOLDER                    judge a kept history again
"""


def main() -> int:
    """Do what was asked; return the exit code."""
    options, arguments = _parse()
    if arguments.check is not None:
        return _judge(arguments.check, None)
    if arguments.plan:
        for fault in plan(
            options.seed,
            options.seconds,
            kinds=options.faults,
            topology=options.topology,
            workers=campaign.WORKERS,
            apis=campaign.APIS,
        ):
            click.echo(f"{fault.at_s:8.2f} s  {fault.kind:17} {fault.lane:14} {fault.lasts_s:5.2f} s")
        return 0
    kept: Path | None = arguments.history
    if kept is not None and kept.exists() and any(kept.iterdir()):
        click.echo(f"{kept} is not empty.", err=True)
        return 2
    directory = kept or Path(tempfile.mkdtemp(prefix="sibyl-chaos-"))
    click.echo(
        f"seed {options.seed}, {options.seconds:g} s, {options.topology}, {options.engine}; history: {directory}"
    )
    if options.broken is not None:
        click.echo(f"broken on purpose: {broken.BREAKS[options.broken].says}")
    began = time.monotonic()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(options, directory))
    except asyncio.CancelledError:
        click.echo(f"left without a verdict; what there is of the history: {directory}", err=True)
        return 130
    except broken.BreakDoesNotFit as error:
        click.echo(str(error), err=True)
        return 2
    except Exception:
        traceback.print_exc()
        click.echo(f"the campaign itself failed, so there is no verdict; its history: {directory}", err=True)
        return 2
    code = _judge(directory, options.broken)
    click.echo(f"({time.monotonic() - began:.0f} s in all)")
    if code == 0 and kept is None:
        shutil.rmtree(directory)
    else:
        words = " ".join(word for word in sys.argv[1:] if word)
        click.echo(f"history: {directory}; judge it again: python -m tests.chaos --check {directory}")
        click.echo(
            f"run it again: python -m tests.chaos {words}" + ("" if "--seed" in words else f" --seed {options.seed}")
        )
    return code


async def _run(options: campaign.Options, directory: Path) -> None:
    stop = asyncio.Event()
    running = asyncio.current_task()
    assert running is not None

    def interrupt() -> None:
        if stop.is_set():
            running.cancel()
        stop.set()
        click.echo("ending; once more leaves at once")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    await campaign.run(options, directory, stop, lambda line: click.echo(f"  {line}"))


def _judge(directory: Path, broken_on_purpose: str | None) -> int:
    try:
        verdict = checker.check(Reader(directory))
    except FileNotFoundError:
        click.echo(f"{directory} holds no history.", err=True)
        return 2
    for line in (*report.lines(verdict), *report.complaints(directory)):
        click.echo(line)
    if broken_on_purpose is None:
        return 0 if verdict.kept else 1
    if verdict.kept:
        click.echo(f"NOT NOTICED: without {broken_on_purpose} everything looks as with it")
        return 1
    click.echo(f"NOTICED: without {broken_on_purpose} the verdict is FAIL, as it must be")
    return 0


def _parse() -> tuple[campaign.Options, argparse.Namespace]:
    faults = "\n".join(f"  {name:17} {kind.says}" for name, kind in KINDS.items())
    breaks = "\n".join(f"  {name:17} {one.says}" for name, one in broken.BREAKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=HELP,
        epilog=f"faults:\n{faults}\n\nbreaks:\n{breaks}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long there are faults [60]")
    parser.add_argument("--seed", type=int, default=None, help="draws faults and questions [drawn by chance]")
    parser.add_argument("--clients", type=int, default=20, help="how many ask at a time [20]")
    parser.add_argument("--faults", default=None, metavar="A,B", help="only these kinds [all; or those of --break]")
    parser.add_argument("--topology", choices=("single", "sentinel"), default="single", help="which Redis [single]")
    parser.add_argument(
        "--durability",
        choices=("fast", "safe", "ha"),
        default="safe",
        help="as the processes are told; ha, with sentinel: a failover must lose nothing [safe]",
    )
    parser.add_argument(
        "--engine", choices=get_args(EngineName), default=None, help="of the workers [scripted; or that of --break]"
    )
    parser.add_argument("--history", type=Path, default=None, metavar="FOLDER", help="keep the history there")
    parser.add_argument("--break", dest="broken", choices=tuple(broken.BREAKS), help="remove a fence first")
    parser.add_argument("--plan", action="store_true", help="print the faults that would be done, and do nothing")
    parser.add_argument("--check", type=Path, default=None, metavar="FOLDER", help="only judge this history")
    arguments = parser.parse_args()
    chosen = arguments.faults.split(",") if arguments.faults is not None else None
    if unknown := sorted(set(chosen or ()) - set(KINDS) - {""}):
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if arguments.seconds < 5 or arguments.clients < 1:
        parser.error("a campaign takes at least 5 seconds and one client")
    if arguments.durability == "ha" and arguments.topology != "sentinel":
        parser.error("--durability ha needs a replica: --topology sentinel")
    if chosen is None:
        chosen = list(broken.BREAKS[arguments.broken].faults if arguments.broken else KINDS)
    topology: Topology = arguments.topology
    seed = arguments.seed if arguments.seed is not None else int(time.time()) % 1_000_000
    options = campaign.Options(
        seed=seed,
        seconds=arguments.seconds,
        faults=tuple(name for name in chosen if name),
        topology=topology,
        durability=arguments.durability,
        clients=arguments.clients,
        broken=arguments.broken,
        engine=arguments.engine or (broken.BREAKS[arguments.broken].engine if arguments.broken else "scripted"),
    )
    return options, arguments


if __name__ == "__main__":
    sys.exit(main())
