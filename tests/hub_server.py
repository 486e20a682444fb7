"""A small stand-in for the Hugging Face Hub: enough of its HTTP API to download and to upload a model."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Repositories by name: the files of each, by name, at its only commit."""

    def __init__(self):
        self.repositories, self.private, self.asked, self.refuse = {}, set(), [], 0
        self.refuse_files = False
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, name):
        content = repr(
            sorted((file, hashlib.sha256(data).hexdigest()) for file, data in self.repositories[name].items())
        )
        return hashlib.sha1(content.encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, status, content=b"", head=False, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if not head:
            self.wfile.write(content)

    def do_GET(self, head=False):
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(path)
        if hub.refuse:
            return self.answer(hub.refuse, {"error": "no"}, head)
        if path == "/api/whoami-v2":
            return self.answer(200, {"name": "me", "type": "user", "orgs": []}, head)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            name, revision = found[1], found[2]
            if name not in hub.repositories:
                return self.answer(404, {"error": "Repository not found"}, head, X_Error_Code="RepoNotFound")
            if revision not in (None, "main", hub.commit(name)):
                return self.answer(404, {"error": "Invalid rev id"}, head, X_Error_Code="RevisionNotFound")
            files = [{"rfilename": file, "size": len(data)} for file, data in hub.repositories[name].items()]
            about = {"_id": "1", "id": name, "modelId": name, "sha": hub.commit(name), "private": False, "tags": [],
                     "siblings": files}  # fmt: skip
            return self.answer(200, about, head)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            data = hub.repositories.get(found[1], {}).get(found[3])
            if hub.refuse_files:
                return self.answer(500, b"", head)
            if data is None:
                return self.answer(404, b"", head, X_Error_Code="EntryNotFound")
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            return self.answer(200, data, head, ETag=etag, X_Repo_Commit=hub.commit(found[1]), Accept_Ranges="bytes")
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/tree/.*", path):
            return self.answer(200, [], head)
        return self.answer(404, {"error": path}, head)

    def do_HEAD(self):
        self.do_GET(head=True)

    def do_POST(self):
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(path)
        if path == "/api/repos/create":
            about = json.loads(body)
            name = "/".join(filter(None, [about.get("organization") or "me", about["name"]]))
            hub.repositories.setdefault(name, {})
            if about.get("private") or about.get("visibility") == "private":
                hub.private.add(name)
            return self.answer(200, {"url": f"{hub.url}/{name}", "id": name})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    hub.repositories[found[1]][value["path"]] = base64.b64decode(value["content"])
            commit = hub.commit(found[1])
            return self.answer(
                200, {"commitUrl": f"{hub.url}/{found[1]}/commit/{commit}", "commitOid": commit, "success": True}
            )
        return self.answer(404, {"error": path})


@contextmanager
def hub_server():
    """A Hub that listens, in a thread."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
