"""The report in W&B: the sentences and tables of the local one, with panels over the runs that W&B mirrors.

``kto-bench-report SWEEP --wandb`` builds it. All that it says is computed from the records, as in the local report;
W&B adds panels that can be searched and zoomed. Everything that can be wrong is looked for before anything is sent.
A report of the same sweep is replaced, and keeps its address, its title and the comments on it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from analysis import markdown
from analysis.findings import findings
from analysis.page import Progress
from analysis.registry import NoDataError, discover
from analysis.samples import samples
from analysis.wandb_panels import Place, panels
from kto_bench.mirror import is_signed_in, label_keys, offline_folders, server, wandb_id
from kto_bench.results import Record, Sweep

PROJECT = "kto_bench"
"""Where W&B has the runs of records that do not say."""
SHOWN = ("done", "running", "preempted", "failed")
"""States of the runs in panels; of those that are not done there are training curves as far as they got."""
TABLE_ROWS = 200
RETRIES, RETRY_SECONDS = 2, 1
"""Of a request that the server answers with a fault of its own. One that it never answers ends after 19 s, or what
WANDB_HTTP_TIMEOUT says."""
PATHS = 5
"""Folders that a message lists, rather than a pattern for them all."""


class WandbError(ValueError):
    """The report cannot be built in W&B. The message says what is missing and what to do."""


def publish(sweep: Sweep, project: str | None, entity: str | None, progress: Progress) -> str:
    """Build or replace the report of the sweep in W&B; returns its address.

    Project and entity are those that the runs were mirrored to, unless given. Raises WandbError.
    """
    ids = _ids(sweep)
    elsewhere = [
        f"--{field}={shlex.quote(value)}" for field, value in (("entity", entity), ("project", project)) if value
    ]
    project = project or _tracked(sweep, "project", PROJECT)
    entity = entity or _tracked(sweep, "entity", None)
    _require_account()
    import wandb

    with _explained("signing in"):
        waits = {"x_graphql_retry_wait_min_seconds": RETRY_SECONDS, "x_graphql_retry_wait_max_seconds": RETRY_SECONDS}
        wandb.setup(wandb.Settings(silent=True, x_graphql_retry_max=RETRIES, **waits))
        place = Place(entity or _default_entity(wandb.Api()), project)
    progress(f"looking for the sweep's runs in {place}")
    mirrored = _mirrored(sweep, ids, place)
    absent = _require_runs(sweep, ids, mirrored, place, elsewhere)
    with _explained(f"looking for an earlier report in {place}"):
        earlier = _report(place, _description(sweep))
    progress("comparing runs")
    blocks = _blocks(sweep, {run: ids[run] for run in mirrored}, place, absent)
    progress(f"replacing {earlier.url}" if earlier else f"writing a new report to {place}")
    with _explained(f"writing the report to {place}"):
        return _save(sweep, place, blocks, earlier)


def _ids(sweep: Sweep) -> dict[str, str]:
    """The W&B id of every run that may have been mirrored, by name."""
    return {
        record.run: wandb_id(sweep.name, str(record.status["fingerprint"]))
        for record in sweep.records
        if record.state in SHOWN and "fingerprint" in record.status
    }


def _tracking(record: Record) -> dict[str, Any]:
    """How the run was tracked, as far as its record says."""
    return record.json("config.json").get("tracking") or {}


def _tracked(sweep: Sweep, field: str, default: str | None) -> Any:
    """A field of the runs' tracking, which must be the same for all that say."""
    found = {tracking.get(field, default) for record in sweep.records if (tracking := _tracking(record))} or {default}
    if len(found) > 1:
        names = ", ".join(sorted(map(str, found)))
        raise WandbError(f"runs of sweep {sweep.name!r} differ in tracking.{field} ({names}): give --{field}")
    return found.pop()


def _require_account() -> None:
    with _explained("reading the key"):
        signed_in = is_signed_in()
    if not signed_in:
        raise WandbError("no W&B key: set WANDB_API_KEY, or call `wandb login` once on this machine; nothing was sent")


def _default_entity(api: Any) -> str:
    entity = api.default_entity
    if not entity:
        raise WandbError("this W&B account has no default entity: give --entity")
    return str(entity)


def _mirrored(sweep: Sweep, ids: dict[str, str], place: Place) -> set[str]:
    """The runs that W&B has, each checked to be in the sweep's group, with the labels that panels group by."""
    import wandb

    runs = {id_: run for run, id_ in ids.items()}
    found = {}
    with _explained(f"looking for runs in {place}"):
        try:
            pages = wandb.Api().runs(str(place), filters={"name": {"$in": list(runs)}}, per_page=100, lazy=False)
            found = {run.id: (run.group, run.config) for run in pages if run.id in runs}
        except ValueError as error:  # the first sync makes the project
            if "could not find project" not in str(error).lower():
                raise
    records = {record.run: record for record in sweep.records}
    for id_, (group, config) in found.items():
        labels = label_keys(records[runs[id_]].labels)
        wrong = [key for key, value in labels.items() if config.get(key) != value]
        if group != sweep.name or wrong:
            right = f"group = {sweep.name!r}" if group != sweep.name else f"config[{wrong[0]!r}] = {labels[wrong[0]]!r}"
            raise WandbError(
                f"run {runs[id_]} is in {place} without {right}, by which panels find it: it was changed there, or "
                f'mirrored by an older version of the suite. Set it: `run = wandb.Api().run("{place}/{id_}"); '
                f"run.{right}; run.update()`"
            )
    return {runs[id_] for id_ in found}


def _require_runs(
    sweep: Sweep, ids: dict[str, str], mirrored: set[str], place: Place, elsewhere: list[str]
) -> list[str]:
    """Refuse a report while finished runs wait to be synced. Returns those that W&B can never have, to be told of."""
    missing = [record for record in sweep.records if record.state == "done" and record.run not in mirrored]
    waiting = {record.run: _folders(record, ids) for record in missing}
    folders = [folder for found in waiting.values() for folder in found]
    if folders:
        count = sum(map(bool, waiting.values()))
        raise WandbError(
            f"{count} finished run{'s are' if count > 1 else ' is'} not in {place} yet. Sync first, then ask again:\n"
            f"  {_sync_command(folders, elsewhere)}"
        )
    if not mirrored:
        modes = ", ".join(sorted({str(_tracking(record).get("mode", "unknown")) for record in sweep.records}))
        raise WandbError(
            f"no run of sweep {sweep.name!r} is in {place}, as far as this account can see, and of none is there an "
            f"offline copy here (tracking.mode: {modes}). Copies are looked for where tracking.folder says, seen from "
            "this folder: run the command where the sweep was launched, or sync there, with `wandb sync "
            "artifacts/wandb/wandb/offline-run-*`. Of runs with tracking=none W&B never gets to know. If they are "
            "elsewhere in W&B, give --entity and --project"
        )
    return [record.run for record in missing]


def _folders(record: Record, ids: dict[str, str]) -> list[Path]:
    folder = _tracking(record).get("folder")
    return offline_folders(Path(folder), ids[record.run]) if folder and record.run in ids else []


def _sync_command(folders: list[Path], elsewhere: list[str]) -> str:
    """``elsewhere``: the options that name another place than the one the runs know."""
    paths = [shlex.quote(str(folder)) for folder in folders]
    if len(folders) > PATHS:  # W&B passes over what it has sent before
        paths = [f"{shlex.quote(str(parent))}/offline-run-*" for parent in sorted({path.parent for path in folders})]
    return " ".join(["wandb sync", *elsewhere, *paths])


def _description(sweep: Sweep) -> str:
    """By this an earlier report is known; its title may have been changed."""
    return f"Sweep {sweep.name}: losses compared, by kto-bench-report --wandb"


def _report(place: Place, description: str) -> Any:
    """The latest report with this description, or None."""
    import wandb

    pages = wandb.Api().reports(str(place))
    found = [report for report in pages if report.description == description]
    if not pages.last_response:  # else this would look like a project without reports
        raise ValueError("the answer has no content")
    return max(found, key=lambda report: str(report.updated_at), default=None)


def _save(sweep: Sweep, place: Place, blocks: list[Any], earlier: Any) -> str:
    import wandb_workspaces.reports.v2 as wr

    title = earlier.display_name if earlier else f"kto_bench: {sweep.name}"[:128]
    report = wr.Report(
        entity=place.entity,
        project=place.project,
        title=title,
        description=_description(sweep),
        width="fluid",
        blocks=blocks,
    )
    if earlier:
        report.id = earlier.id
        report._discussion_threads = earlier.spec.get("discussionThreads", [])  # has no public name
        report._authors = earlier.spec.get("authors", [])
    report.save()
    saved = _report(place, _description(sweep))  # its address is right for every server, report.url is not
    if saved is None or saved.id != report.id:
        raise WandbError("the server took the report, but does not list it")
    return str(saved.url)


def _blocks(sweep: Sweep, ids: dict[str, str], place: Place, absent: list[str]) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for finding in findings(sweep):
        parts = [markdown.escape(sentence) for sentence in finding.sentences]
        if finding.unclear:
            parts += [markdown.escape(finding.introduction), markdown.bullets(list(finding.unclear))]
        blocks += [wr.H2(finding.question), wr.MarkdownBlock("\n\n".join(parts))]
    if absent:
        told = "These finished runs are in the sentences and tables, but not in W&B, and so in no panel:"
        blocks.append(wr.MarkdownBlock(f"{told}\n\n{markdown.bullets(absent)}"))
    blocks += panels(sweep, ids, place)
    for entry in discover("TABLE").values():
        try:
            sheet = entry.make(sweep)
        except NoDataError:
            continue
        text = f"{markdown.escape(sheet.caption)}\n\n{markdown.table(sheet.display, TABLE_ROWS)}"
        blocks += [wr.H2(entry.title), wr.MarkdownBlock(text)]
    shown = _samples(sweep)
    if shown:
        blocks += [wr.H2("Sample completions"), wr.MarkdownBlock(shown)]
    commands = f"kto-bench-report {sweep.name}          # figures, tables and the page, from the records\n"
    commands += f"kto-bench-report {sweep.name} --wandb  # this report, again"
    return [*blocks, wr.H2("Make it again"), wr.MarkdownBlock(f"```\n{commands}\n```")]


def _samples(sweep: Sweep) -> str:
    parts = []
    for sample in samples(sweep):
        parts.append(f"**Prompt:** {markdown.escape(sample.prompt)}")
        answers = [
            f"{answer.name} ({answer.verdict}; {answer.notes}): {answer.completion}" for answer in sample.answers
        ]
        parts.append(markdown.bullets([*([f"Reference: {sample.reference}"] if sample.reference else []), *answers]))
    return "\n\n".join(parts)


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Whatever wandb, its helper process or a server that answers nonsense raise, as what to do about it."""
    try:
        yield
    except WandbError:
        raise
    except Exception as error:
        status, host = _status(error), server()
        if status == HTTPStatus.UNAUTHORIZED or "did not recognize an account" in str(error):
            advice = f"{host} does not accept the W&B key: set WANDB_API_KEY, or `wandb login --relogin`"
        elif status == HTTPStatus.FORBIDDEN:
            advice = "this account is not allowed to: ask for access, or give --entity or --project"
        elif status == HTTPStatus.NOT_FOUND:
            advice = "there is no such project, or this account may not see it: sync the runs first, or give --entity "
            advice += "or --project"
        elif status is not None and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            advice = f"{host} has a fault of its own: try again later"
        else:
            advice = f"is {host} W&B, and can it be reached from here? Then try again"
        raise WandbError(f"{doing} failed: {advice} ({type(error).__name__}: {error})") from error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error, or what caused it, has from the server."""
    while error is not None:
        if retried := re.search(
            r"while retrying: HTTP (\d{3})", str(error)
        ):  # wandb gives up, and says it in words only
            return int(retried[1])
        response = getattr(error, "response", None)
        if status := getattr(response, "http_status", 0) or getattr(response, "status_code", 0):
            return int(status)
        error = getattr(error, "exc", None) or error.__cause__ or error.__context__
    return None
