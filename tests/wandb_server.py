"""A local server that plays W&B's interface as far as syncing runs and building reports need it: real HTTP, loopback.

It keeps what it is sent as W&B does: projects, runs (from ``wandb sync``), and reports (views).
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "tester"
KEY = "k" * 40


@dataclass(frozen=True)
class Fault:
    """What the server does instead of answering: a status, a body that is sent as it is, a wait in seconds."""

    status: int = 200
    body: str = '{"errors": [{"message": "planted fault"}]}'
    delay: float = 0.0


class WandbServer:
    """``fault(operation)`` may return a Fault for a GraphQL operation ("Viewer", "Runs", "upsertView" ...).

    ``operations`` are all that were asked for, ``unknown`` those that have no answer here, ``page`` is the most runs in
    one answer.
    """

    def __init__(self) -> None:
        self.fault: Callable[[str], Fault | None] = lambda operation: None
        self.runs: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.operations: list[str] = []
        self.unknown: list[str] = []
        self.keys: set[str] = set()
        self.page = 100
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
                if handler.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                scheme, _, token = (handler.headers["Authorization"] or "").partition(" ")
                with server._lock:
                    server.keys.add(base64.b64decode(token).decode() if scheme == "Basic" else f"{scheme} {token}")
                    status, answer, delay = server._handle(handler.path, body)
                time.sleep(delay)
                handler.send_response(status)
                handler.send_header("Content-Type", "application/json")
                handler.send_header("Content-Length", str(len(answer)))
                handler.end_headers()
                with contextlib.suppress(OSError):  # the client may have given up
                    handler.wfile.write(answer)

            def log_message(handler, *arguments: Any) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add_run(self, project: str, id_: str, group: str, config: dict[str, Any], **fields: Any) -> None:
        """A run as it is there after a sync."""
        wrapped = {key: {"value": value} for key, value in config.items()}
        self.runs[ENTITY, project, id_] = {"name": id_, "group": group, "config": json.dumps(wrapped), **fields}

    @property
    def sent(self) -> list[str]:
        """The operations that change something."""
        return [name for name in self.operations if name[0].islower() or name.startswith(("Upsert", "Create"))]

    def _handle(self, path: str, body: bytes) -> tuple[int, bytes, float]:
        if path.startswith("/sdk/otel/"):  # how the client itself fares
            return 200, b"", 0.0
        request = json.loads(body or b"null")
        if path.endswith("/file_stream"):
            return 200, self._file_stream(path, request), 0.0
        if path != "/graphql":
            self.unknown.append(path)
            return 404, b"{}", 0.0
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", request["query"])
        operation = found[1] if found else "?"
        self.operations.append(operation)
        if fault := self.fault(operation):
            return fault.status, fault.body.encode(), fault.delay
        answer = getattr(self, f"_{operation}", None)
        if answer is None:
            self.unknown.append(operation)
            return 400, json.dumps({"errors": [{"message": f"unknown operation {operation}"}]}).encode(), 0.0
        return 200, json.dumps({"data": answer(request.get("variables") or {})}).encode(), 0.0

    def _file_stream(self, path: str, request: dict[str, Any]) -> bytes:
        _, _, entity, project, id_, _ = path.split("/")
        run = self.runs[entity, project, id_]
        for name, chunk in (request.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run.setdefault("history", []).extend(json.loads(line) for line in chunk["content"])
            elif name == "wandb-summary.json":
                run["summaryMetrics"] = chunk["content"][-1]
        if "exitcode" in request:
            run["state"] = "finished" if request["exitcode"] == 0 else "failed"
        return b"{}"

    # What follows answers one GraphQL operation each; the names are W&B's.

    def _Viewer(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        return {"viewer": {"id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}

    def _GetDefaultEntity(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        return {"viewer": {"id": "u", "entity": ENTITY}}

    def _ServerFeaturesQuery(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _GetProjects(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        return {
            "models": _page([self._project(variables["entity"], name) for name in self._names(variables["entity"])])
        }

    def _ProjectInternalId(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        name, entity = variables["projectName"], variables["entityName"]
        there = name in self._names(entity)
        return {"project": {"id": f"id-{name}", "internalId": f"internal-{name}"} if there else None}

    def _Runs(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        entity, project = variables["entity"], variables["project"]
        if project not in self._names(entity):
            return {"project": None}
        wanted = set(json.loads(variables["filters"])["name"]["$in"])
        runs = [run for key, run in sorted(self.runs.items()) if key[:2] == (entity, project) and key[2] in wanted]
        start, size = int(variables.get("cursor") or 0), min(self.page, variables["perPage"])
        page = _page([self._run(run) for run in runs[start : start + size]], start)
        page["pageInfo"]["hasNextPage"] = start + size < len(runs)
        return {"project": {"internalId": "1", "runCount": len(runs), "readOnly": False, "runs": page}}

    def _ProjectViews(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        place = (variables["entity"], variables["project"])
        return {"project": {"allViews": _page([v for v in self.views.values() if v["place"] == place])}}

    def _upsertView(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        id_ = variables["id"] or base64.b64encode(f"View:{len(self.views)}".encode()).decode()
        inserted = id_ not in self.views
        place = (variables["entityName"], variables["projectName"])
        fields = {name: variables[name] for name in ("name", "displayName", "description", "type", "spec")}
        times = {"createdAt": "2026-01-01T00:00:00", "updatedAt": f"2026-01-01T00:00:{len(self.operations):05d}"}
        self.views[id_] = {"id": id_, **fields, "place": place, "user": None, **times}
        project = {"id": "1", "name": place[1], "entityName": place[0]}
        view = {**fields, "id": id_, "project": project, "updatedAt": None}
        return {"upsertView": {"view": view, "inserted": inserted}}

    def _RunResumeStatus(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        return {"model": None}

    def _UpsertBucket(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        key = (variables.get("entity") or ENTITY, variables["project"], variables["name"])
        run = self.runs.setdefault(key, {"name": key[2]})
        for name, field in (("groupName", "group"), ("displayName", "displayName"), ("config", "config")):
            if variables.get(name) is not None:
                run[field] = variables[name]
        run["tags"] = variables.get("tags") or run.get("tags", [])
        project = {"id": "1", "name": key[1], "entity": {"id": "e", "name": key[0]}}
        bucket = {"id": f"bucket-{key[2]}", "sweepName": None, "historyLineCount": 0, "project": project}
        shown = {name: run.get(name) for name in ("name", "displayName", "config")}
        return {"upsertBucket": {"bucket": {**bucket, **shown, "description": None}, "inserted": True}}

    def _CreateArtifact(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        """As if it had the same files already, so that none are sent."""
        latest = {"latestArtifact": {"id": "a"}}
        return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": latest}}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}}

    def _names(self, entity: str) -> list[str]:
        return sorted({project for owner, project, _ in self.runs if owner == entity})

    def _project(self, entity: str, name: str) -> dict[str, Any]:
        return {
            "__typename": "Project", "id": f"id-{name}", "name": name, "entityName": entity,
            "createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None,
        }  # fmt: skip

    def _run(self, run: dict[str, Any]) -> dict[str, Any]:
        fixed = {"projectId": "1", "id": f"bucket-{run['name']}", "sweepName": None, "jobType": None, "commit": None}
        given = {"tags": [], "state": "finished", "summaryMetrics": "{}", "systemMetrics": "{}", "historyKeys": None}
        times = {"createdAt": "2026-01-01T00:00:00", "heartbeatAt": "2026-01-01T00:00:00"}
        return {**fixed, **given, **times, "readOnly": False, "user": {"name": "t", "username": ENTITY}, **run}


def _page(nodes: list[Any], start: int = 0) -> dict[str, Any]:
    edges = [{"node": node, "cursor": str(start + i + 1)} for i, node in enumerate(nodes)]
    info = {"__typename": "PageInfo", "endCursor": edges[-1]["cursor"] if edges else None, "hasNextPage": False}
    return {"edges": edges, "pageInfo": info}
