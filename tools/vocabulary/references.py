"""Where the symbols of a checkout are used, asked of basedpyright's language server, so that a rename follows types and not spellings."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

VENV = Path(".venv").resolve()


class Server:
    def __init__(self, root: Path):
        self.root = root
        self.config = root / "pyrightconfig.json"
        self.config.write_text(json.dumps({
            "include": ["src", "tests", "bench"], "extraPaths": ["src", "tests", "bench"], "typeCheckingMode": "off",
            "venvPath": str(VENV.parent), "venv": VENV.name, "pythonVersion": "3.11",
        }))
        self.process = subprocess.Popen(
            [str(VENV / "bin/basedpyright-langserver"), "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={**os.environ, "NODE_OPTIONS": "--max-old-space-size=4096"},
        )
        self.number = 0
        self.opened: set[Path] = set()
        folder = {"uri": self.uri(root), "name": "root"}
        self.ask("initialize", {
            "processId": os.getpid(), "rootUri": folder["uri"], "workspaceFolders": [folder],
            "capabilities": {"workspace": {"configuration": True, "workspaceFolders": True}},
        })
        self.tell("initialized", {})

    @staticmethod
    def uri(path: Path) -> str:
        return "file://" + quote(str(path))

    def send(self, message: dict) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
        self.process.stdin.flush()

    def receive(self) -> dict:
        length = 0
        while line := self.process.stdout.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return json.loads(self.process.stdout.read(length))

    def tell(self, method: str, params: dict) -> None:
        self.send({"method": method, "params": params})

    def ask(self, method: str, params: dict):
        self.number += 1
        self.send({"id": self.number, "method": method, "params": params})
        while True:
            message = self.receive()
            if "method" in message and "id" in message:
                result = None
                if message["method"] == "workspace/configuration":
                    result = [
                        {"pythonPath": str(VENV / "bin/python")} if item.get("section") == "python"
                        else {"analysis": {"diagnosticMode": "openFilesOnly", "typeCheckingMode": "off"}}
                        for item in message["params"]["items"]
                    ]
                self.send({"id": message["id"], "result": result})
            elif message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message.get("result")

    def references(self, path: Path, line: int, column: int) -> list[tuple[Path, int, int]]:
        """Every place of the symbol at this place (lines from 0, columns in characters)."""
        if path not in self.opened:
            self.opened.add(path)
            self.tell("textDocument/didOpen", {"textDocument": {
                "uri": self.uri(path), "languageId": "python", "version": 1, "text": path.read_text()}})
        found = self.ask("textDocument/references", {
            "textDocument": {"uri": self.uri(path)}, "position": {"line": line, "character": column},
            "context": {"includeDeclaration": True},
        })
        return [
            (Path(unquote(urlparse(one["uri"]).path)), one["range"]["start"]["line"], one["range"]["start"]["character"])
            for one in found or []
        ]

    def close(self) -> None:
        self.config.unlink(missing_ok=True)
        try:
            self.ask("shutdown", {})
            self.tell("exit", {})
            self.process.wait(10)
        except Exception:
            self.process.kill()
