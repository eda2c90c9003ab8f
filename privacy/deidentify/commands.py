"""`fedvision dicom ...`: deidentify, inspect, verify, report, reidentify, rotate."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fedvision.errors import ConfigError, FedvisionError

app = typer.Typer(
    no_args_is_help=True,
    help="De-identify DICOM files, check what came out, and find back who is who.",
    pretty_exceptions_enable=False,  # they show the values of variables
)

Site = Annotated[Path | None, typer.Option(help="Folder with the site's key and vault; $FEDVISION_SITE, else ~/.fedvision/site.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="YAML: options, head_volumes, limits; see docs/dicom.md.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option(help="Why; it is recorded.")]


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Our own errors as one line and their exit code; those of the system without the path, which may be a patient's."""
    try:
        yield
    except OSError as error:
        typer.echo(f"{type(error).__name__}: {error.strerror or 'the system refused'}", err=True)
        raise typer.Exit(1) from None
    except FedvisionError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


@app.command(epilog="Example: fedvision dicom deidentify /data/store /data/out --json")
def deidentify(
    store: Annotated[Path, typer.Argument(help="Folder with the images; it is only read.")],
    out: Annotated[Path, typer.Argument(help="Folder for the copies: empty, or of an earlier run.")],
    site: Site = None,
    policy: PolicyFile = None,
    workers: Annotated[int, typer.Option(min=0, help="Child processes; 0 = one for each core.")] = 0,
    watch: Annotated[float, typer.Option(min=0, help="Look again every so many seconds, until stopped; 0 = once.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """De-identify every file of STORE into OUT.  Exit code 0 also where files are held back: see the counts."""
    from privacy.deidentify.policy import read_policy
    from privacy.deidentify.run import deidentify as run
    from privacy.deidentify.vault import site_folder

    with _plain_errors():
        chosen = read_policy(policy)
        while True:
            summary = run(
                store,
                out,
                site_folder(site),
                chosen,
                workers=workers or len(os.sched_getaffinity(0)),
                progress=_progress(),
                settle=min(watch, 10.0),
            )
            if as_json:
                typer.echo(json.dumps(summary.as_json(), sort_keys=True))
            elif not watch or summary.fresh:
                _show(summary)
            if not watch:
                return
            time.sleep(watch)


def _progress() -> Any:
    """A line with files done, rate and time left, where somebody is looking."""
    begin, last = time.monotonic(), 0.0
    if not sys.stderr.isatty():
        return lambda done, total: None

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < 0.2 and done < total:
            return
        last = now
        rate = done / max(now - begin, 1e-3)
        left = (total - done) / max(rate, 1e-3)
        line = f"\r{done:,} of {total:,} files, {rate:,.0f}/s, {int(left // 60)}:{int(left % 60):02d} left "
        sys.stderr.write(line + ("\n" if done >= total else ""))
        sys.stderr.flush()

    return show


def _show(summary: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from privacy.deidentify.states import explain

    table = Table(title="What became of every input", title_justify="left")
    for column, justify in (("state", "left"), ("files", "right"), ("", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for state, count in summary.states.items():
        table.add_row(state, f"{count:,}", "")
    for code, count in summary.codes.items():
        table.add_row(f"  {code}", f"{count:,}", explain(code))
    table.add_row("inputs", f"{summary.inputs:,}", "= the sum of the states" if summary.adds_up else "NOT the sum of the states")
    console = Console()
    console.print(table)
    console.print(f"{summary.outputs:,} files in OUT; {summary.fresh:,} done in {summary.seconds:,.1f} s")
    if summary.set_aside:
        console.print(
            f"{summary.set_aside:,} copies under earlier rules, whose files have left STORE, were set aside in OUT/.partial/outdated: they are in no "
            "manifest; delete them, or put the files back and run again"
        )


@app.command(epilog="Example: fedvision dicom inspect scan.dcm")
def inspect(
    path: Annotated[Path, typer.Argument(help="One DICOM file.")],
    policy: PolicyFile = None,
    values: Annotated[bool, typer.Option("--values", help="Show the values: they are the patient's.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a file holds, and what would happen to each element."""
    from privacy.deidentify.inspection import lines
    from privacy.deidentify.policy import read_policy

    with _plain_errors():
        found = lines(path, read_policy(policy), values)
        if as_json:
            typer.echo(json.dumps(found))
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(show_edge=False)
        for column in found[0]:
            table.add_column(column)
        for line in found:
            table.add_row(*line.values())
        Console().print(table)


@app.command(epilog="Example: fedvision dicom verify /data/out")
def verify(
    out: Annotated[Path, typer.Argument(help="Output folder of `deidentify`.")],
    as_json: AsJson = False,
) -> None:
    """Check every file of OUT against its manifest and against the rules, without the originals.  Exit code 1 for any
    finding."""
    from privacy.deidentify.verification import verify as check

    with _plain_errors():
        result = check(out)
        if as_json:
            typer.echo(json.dumps(result.as_json(), sort_keys=True))
        else:
            for finding in result.findings:
                typer.echo(f"{finding['name']}: {finding['what']}")
            typer.echo(f"{result.files:,} files checked, {len(result.findings):,} findings")
        if result.findings:
            raise typer.Exit(1)


@app.command(epilog="Example: fedvision dicom report /data/out")
def report(
    out: Annotated[Path, typer.Argument(help="Output folder of `deidentify`.")],
    to: Annotated[Path | None, typer.Option(help="HTML file; OUT/report.html where it is not given.")] = None,
) -> None:
    """An HTML page on what was done, without data of patients."""
    from privacy.deidentify.report import write

    with _plain_errors():
        typer.echo(str(write(out, to or out / "report.html")))


@app.command(epilog='Example: fedvision dicom reidentify 1.2.3 --reason "incidental finding"')
def reidentify(
    reason: Reason,
    target: Annotated[str, typer.Argument(help="A pseudonym, a subject ID or a new SOP instance UID.")] = "",
    quarantined: Annotated[bool, typer.Option("--quarantined", help="List the paths of what is held back instead.")] = False,
    site: Site = None,
) -> None:
    """Who stands behind a pseudonym: for a person who holds the site's key, with a reason, recorded."""
    from privacy.deidentify.vault import Vault, site_folder, site_key

    with _plain_errors():
        if not target and not quarantined:
            raise ConfigError("name a pseudonym, a subject ID or a new SOP instance UID, or ask with --quarantined")
        folder = site_folder(site)
        vault = Vault(folder, site_key(folder, create=False))
        try:
            found = vault.quarantined(reason) if quarantined else vault.reidentify(target, reason)
        finally:
            vault.close()
        typer.echo(json.dumps(found, indent=2))
        if not found:
            raise typer.Exit(1)


@app.command(epilog="Example: fedvision dicom rotate --site /data/site")
def rotate(site: Site = None) -> None:
    """Give the site a new key.  Subjects stay the same; the next run writes every output anew."""
    from privacy.deidentify.vault import Vault, site_folder, site_key

    with _plain_errors():
        folder = site_folder(site)
        vault = Vault(folder, site_key(folder, create=False))
        try:
            vault.rotate()
        finally:
            vault.close()
        typer.echo("The site has a new key.")


@app.command(epilog="Example: fedvision dicom receive /data/inbox --from SCANNER1")
def receive(
    inbox: Annotated[Path, typer.Argument(help="Folder for what arrives; run `deidentify INBOX OUT --watch 10` too.")],
    site: Site = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 11112,
    title: Annotated[str, typer.Option(help="Our AE title.")] = "FEDVISION",
    sender: Annotated[list[str] | None, typer.Option("--from", help="AE title that may send; repeatable.")] = None,
) -> None:
    """Receive DICOM objects (C-STORE) into an inbox, until stopped.

    They are originals: keep the folder as you keep STORE.
    """
    import signal
    import threading

    from privacy.deidentify.inbox import Inbox, receiver
    from privacy.deidentify.vault import site_folder, site_key

    with _plain_errors():
        box = Inbox(inbox, site_key(site_folder(site), create=True))
        server = receiver(box, host=host, port=port, title=title, callers=sender or [])
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        typer.echo(f"{title} listens on {host}, port {port}")
        stop.wait()
        server.shutdown()


@app.command(epilog="Example: fedvision dicom fetch http://localhost:8042/dicom-web /data/inbox")
def fetch(
    url: Annotated[str, typer.Argument(help="Address of a DICOMweb server, e.g. https://host/dicom-web.")],
    inbox: Annotated[Path, typer.Argument(help="Folder for what is fetched; then run `deidentify INBOX OUT`.")],
    site: Site = None,
) -> None:
    """Fetch what a DICOMweb server has (QIDO-RS, WADO-RS) and the inbox has not.

    $FEDVISION_DICOMWEB_AUTHORIZATION, where it is set, is sent as the Authorization header.
    """
    from privacy.deidentify.inbox import Inbox
    from privacy.deidentify.inbox import fetch as fetched
    from privacy.deidentify.vault import site_folder, site_key

    with _plain_errors():
        box = Inbox(inbox, site_key(site_folder(site), create=True))
        counts = [0, 0]
        for new in fetched(url, box, os.environ.get("FEDVISION_DICOMWEB_AUTHORIZATION", "")):
            counts[new] += 1
        typer.echo(f"{counts[1]:,} instances fetched, {counts[0]:,} were here already")
