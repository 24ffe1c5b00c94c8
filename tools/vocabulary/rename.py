#!/root/.pyenv/versions/3.13.0/bin/python
"""Rename identifiers, flags, keys and files of a lavra checkout by the glossary: `rename.py CHECKOUT [--no-format]`.

Works on tokens. What `table.py` says is carried out in one pass over the tree as it is now: SYMBOLS follow types (every
reference that basedpyright's language server finds), WORDS follow spellings within their files, KEYS are string literals,
FLAGS stand in any text, FILES are moved. See README.md beside this file.
"""

from __future__ import annotations

import ast
import fnmatch
import io
import os
import re
import subprocess
import sys
import time
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

PYTHON = "/root/.pyenv/versions/3.13.0/bin/python"
if sys.version_info < (3, 12):  # older tokenizers do not look into f-strings
    os.execv(PYTHON, [PYTHON, *sys.argv])

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import table  # noqa: E402
from references import VENV, Server  # noqa: E402

ROOT = Path(sys.argv[1]).resolve()
notes: dict[str, list[str]] = defaultdict(list)
counts: Counter[str] = Counter()
used: set[str] = set()


def note(kind: str, text: str) -> None:
    if text not in notes[kind]:
        notes[kind].append(text)


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def tracked() -> list[str]:
    return [n for n in git("ls-files", "--cached", "--others", "--exclude-standard").splitlines() if (ROOT / n).is_file()]


def within(name: str, globs: str) -> bool:
    """Whether a file is one of the globs (separated by blanks); those with ! are taken out; none given: all."""
    if not globs:
        return True
    good = [g for g in globs.split() if not g.startswith("!")]
    bad = [g[1:] for g in globs.split() if g.startswith("!")]
    return (not good or any(fnmatch.fnmatch(name, g) for g in good)) and not any(fnmatch.fnmatch(name, g) for g in bad)


# ---- the table -------------------------------------------------------------------------------------------------------


def entries(text: str):
    """Lines `old new [options] [: globs]`; # begins a comment."""
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if line:
            left, _, globs = line.partition(" : ")
            yield left.split(), globs.strip()


WORDS = [(w[0], w[1], set(w[2:]), g) for w, g in entries(table.WORDS)]
KEYS = [(w[0], w[1], g) for w, g in entries(table.KEYS)]
SYMBOLS = [(w[0], w[1], set(w[2:])) for w, g in entries(table.SYMBOLS)]
FLAGS = [(w[0], w[1], g) for w, g in entries(table.FLAGS)]
FILES = [(w[0], w[1]) for w, g in entries(table.FILES)]


# ---- symbols: where they are declared, and everywhere they are used ------------------------------------------------------


class Source:
    """A Python file with its tree; columns of the tree are bytes, those of tokens characters."""

    def __init__(self, name: str):
        self.name, self.path = name, ROOT / name
        self.text = self.path.read_text()
        self.lines = self.text.split("\n")
        self.tree = ast.parse(self.text)

    def place(self, node: ast.AST, word: str) -> tuple[int, int] | None:
        """Line (from 0) and column of the word, on or after the node's beginning."""
        line, column = node.lineno - 1, len(self.lines[node.lineno - 1].encode()[: node.col_offset].decode())
        for number in range(line, min(line + 40, len(self.lines))):
            found = re.compile(rf"\b{re.escape(word)}\b").search(self.lines[number], column if number == line else 0)
            if found:
                return number, found.start()
        return None


def declared(source: Source, path: str) -> list[tuple[int, int]]:
    """Places of `Class.field`, `Class.method(param)`, `function(param)`, `function<local>` or `name` in a file."""
    found: list[tuple[int, int]] = []
    local = re.fullmatch(r"(.+)<(\w+)>", path)
    param = re.fullmatch(r"(.+)\((\w+)\)", path)
    if local:
        for node in nodes(source.tree, local[1].split(".")):
            for sub in ast.walk(node):
                if isinstance(sub, ast.Name) and sub.id == local[2] and isinstance(sub.ctx, ast.Store):
                    found.append(source.place(sub, local[2]))
    elif param:
        for node in nodes(source.tree, param[1].split(".")):
            if isinstance(node, ast.ClassDef):
                node = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
            if node is None:
                continue
            every = node.args
            for arg in (*every.posonlyargs, *every.args, *every.kwonlyargs, *filter(None, (every.vararg, every.kwarg))):
                if arg.arg == param[2]:
                    found.append(source.place(arg, param[2]))
    else:
        *owner, name = path.split(".")
        if not owner:
            for node in source.tree.body:
                found += at(source, node, name)
        else:
            for cls in nodes(source.tree, owner):
                for node in cls.body:
                    found += at(source, node, name)
                for sub in ast.walk(cls):
                    if (
                        isinstance(sub, ast.Attribute) and sub.attr == name and isinstance(sub.ctx, ast.Store)
                        and isinstance(sub.value, ast.Name) and sub.value.id in ("self", "cls")
                    ):
                        line, column = source.place(sub, "self")
                        found.append((line, column + 5))
    return [one for one in found if one]


def at(source: Source, node: ast.AST, name: str) -> list:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
        return [source.place(node, name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
        return [source.place(node.target, name)]
    if isinstance(node, ast.Assign):
        return [
            source.place(sub, name)
            for target in node.targets for sub in ast.walk(target) if isinstance(sub, ast.Name) and sub.id == name
        ]
    return []


def nodes(tree: ast.AST, path: list[str]) -> list:
    level = [tree]
    for part in path:
        level = [
            sub for node in level for sub in ast.walk(node)
            if isinstance(sub, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and sub.name == part
        ]
    return level


def warm_up(server: Server, sources: dict[str, Source]) -> None:
    """Wait until the server has found all files of the checkout: before, it finds too few references."""
    source = sources["src/lavra/core/errors.py"]
    place = declared(source, "InputError")[0]
    before, same = 0, 0
    for _ in range(60):
        found = len({where for where, _, _ in server.references(source.path, *place)})
        same = same + 1 if found == before and found > 100 else 0
        if same == 2:
            return
        before = found
        time.sleep(2)
    sys.exit("the language server does not find the files of the checkout")


def resolve(sources: dict[str, Source]) -> tuple[dict, dict, dict]:
    """Return the new name at each (file, line, column), the files of each field, and functions of modules by dotted name."""
    renamed: dict[tuple[str, int, int], str] = {}
    fields: dict[tuple[str, str], set[str]] = defaultdict(set)
    dotted: dict[str, str] = {}
    server = Server(ROOT)
    try:
        warm_up(server, sources)
        for spec, new, options in SYMBOLS:
            globs, _, path = spec.rpartition(":")
            places = 0
            old = re.findall(r"\w+", path)[-1]
            for name, source in sources.items():
                if not within(name, globs or "src/*"):
                    continue
                if old not in source.text:
                    continue
                for line, column in declared(source, path):
                    places += 1
                    if not path.count(".") and "(" not in path and "<" not in path and name.startswith("src/"):
                        module = name.removeprefix("src/").removesuffix(".py").replace("/", ".")
                        dotted[f"{module}.{old}"] = f"{module}.{new}"
                    for where, l, c in [(source.path, line, column), *server.references(source.path, line, column)]:
                        try:
                            relative = str(where.relative_to(ROOT))
                        except ValueError:
                            note("outside the checkout", f"{where} for {spec}")
                            continue
                        if relative in sources and sources[relative].lines[l][c : c + len(old)] == old:
                            renamed[relative, l, c] = new
                            fields[old, new].add(relative)
            if not places:
                note("symbol not there (passed over)", spec)
    finally:
        server.close()
    return renamed, fields, dotted


# ---- one Python file ---------------------------------------------------------------------------------------------------


def word_maps(name: str) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Names, exact strings, and names after a dot or before = in a call that are renamed in this file."""
    names, strings, members = {}, {}, {}
    for old, new, options, globs in WORDS:
        if within(name, globs):
            if "attr" in options:
                members[old] = new
                continue
            names[old] = new
            if "+" in options or old.lstrip("_")[:1].isupper():
                strings[old] = new
    for old, new, globs in KEYS:
        if within(name, globs):
            strings[old] = new
    return names, strings, members


FLAG_RULES: list[tuple[re.Pattern, str, str, str]] = [
    (re.compile(rf"(?<![\w-]){re.escape(old)}(?![\w])" if old.endswith(".") is False else re.escape(old)), old, new, globs)
    for old, new, globs in FLAGS
]


def in_text(name: str, text: str, names: dict[str, str], dotted: dict[str, str]) -> str:
    """Flags, dotted paths and names in backticks, in prose or a string."""
    for pattern, old, new, globs in FLAG_RULES:
        if old in text and within(name, globs):
            text, times = pattern.subn(new, text)
            counts[f"flag {old}"] += times
    for old, new, globs in table.TEXTS:
        if within(name, globs) and old in text:
            counts[f"text {old}"] += text.count(old)
            text = text.replace(old, new)

    def path(found: re.Match) -> str:
        whole = found[0]
        for old, new in dotted.items():
            if whole == old or whole.startswith(old + "."):
                whole = new + whole[len(old) :]
        head, _, last = whole.rpartition(".")
        if last in names and not (ROOT / "src" / Path(*whole.split("."))).with_suffix(".py").exists():
            whole = f"{head}.{names[last]}"
        return whole

    text = re.sub(r"\blavra(?:\.\w+)+", path, text)

    def quoted(found: re.Match) -> str:
        inner = found[1]
        if inner in names:
            counts[f"backtick {inner}"] += 1
            return f"`{names[inner]}`"
        call = re.fullmatch(r"(\w+)(\(.*\)|\.[\w.]+|=.*)", inner)
        if call and call[1] in names:
            return f"`{names[call[1]]}{call[2]}`"
        last = re.fullmatch(r"([\w.]+)\.(\w+)", inner)
        if last and last[2] in names and not inner.startswith("lavra."):
            return f"`{last[1]}.{names[last[2]]}`"
        return found[0]

    text = re.sub(r"(?m)^( +)([A-Z]\w+)(?=: )", lambda f: f[1] + names.get(f[2], f[2]), text)  # Raises: in docstrings
    return re.sub(r"`([^`\n]+)`", quoted, text)


def python(source: Source, renamed: dict, fields: dict, dotted: dict) -> str:
    name = source.name
    names, strings, members = word_maps(name)
    module, imported = "", {}
    starts = [0]
    for line in source.text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines_kept = source.text.splitlines(keepends=True)
    edits: list[tuple[int, int, str]] = []
    hits: dict[tuple[int, int], tuple[str, str]] = {}  # (line from 1, column) of NAME tokens: old, new
    tokens = list(tokenize.generate_tokens(io.StringIO(source.text).readline))
    in_module, depth, calls, groups, i = False, 0, [], [], 0
    pending = {(l, c): new for (f, l, c), new in renamed.items() if f == name}
    for i, token in enumerate(tokens):
        before = tokens[i - 1] if i else None
        if depth and before is not None:  # within brackets, lines do not count
            before = next(t for t in reversed(tokens[:i]) if t.type not in (tokenize.NL, tokenize.COMMENT))
        if token.type in (tokenize.NEWLINE, tokenize.NL) and not depth:
            in_module, module = False, ""
        if token.type == tokenize.OP and token.string in "([{":
            depth += 1
            groups.append(token.string)
            calls.append(before.string if before and before.type == tokenize.NAME and token.string == "(" else "")
        if token.type == tokenize.OP and token.string in ")]}" and calls:
            depth -= 1
            calls.pop()
            groups.pop()
        begin = starts[token.start[0] - 1] + token.start[1]
        end = starts[token.end[0] - 1] + token.end[1]
        if token.type == tokenize.NAME:
            if token.string in ("from", "import") and (before is None or before.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT)):
                in_module, module = True, ""
                from_import = token.string == "from"
                continue
            if token.string in ("import", "as") and in_module:
                in_module = False
                continue
            if in_module:
                module += "." * bool(module) + token.string
                continue
            key = (token.start[0] - 1, token.start[1])
            new = pending.pop(key, None)
            if new is None and module and f"{module}.{token.string}" in dotted:
                new = dotted[f"{module}.{token.string}"].rpartition(".")[2]
                imported[token.string] = new
            if new is None and token.string in imported and before.string != "." and tokens[i + 1].string != "=":
                new = imported[token.string]
                note("renamed because it is imported here", f"{name}:{token.start[0]} {token.string}")
            if new is None and token.string in members and (
                before.string == "." or before.string in "(," and tokens[i + 1].string == "=" and calls and calls[-1]
                or tokens[i + 1].string == ":" and not depth and before.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT)
            ):
                new = members[token.string]
            if new is None and calls and calls[-1] in ("replace", "dict") and tokens[i + 1].string == "=" and before.string in "(,":
                for (old, to), files in fields.items():
                    if old == token.string and name in files and calls[-1] == "replace":
                        new = to
                        note("replace(…) keyword renamed because its file uses the field", f"{name}:{token.start[0]} {old}= -> {to}=")
            if new is None and token.string in names:
                new = names[token.string]
            if new is not None and new != token.string:
                hits[token.start] = (token.string, new)
                counts[f"{token.string} -> {new}"] += 1
                edits.append((begin, end, new))
        elif token.type == tokenize.COMMENT:
            new = in_text(name, token.string, names, dotted)
            if new != token.string:
                edits.append((begin, end, new))
        elif token.type == tokenize.STRING or token.type == tokenize.FSTRING_MIDDLE:
            text = source.text[begin:end]
            whole = re.fullmatch(r"([rRbBuU]*)(\"\"\"|'''|\"|')(.*)\2", text, re.S) if token.type == tokenize.STRING else None
            inner = whole[3] if whole else text
            new_inner = inner
            if whole and inner in strings:
                new_inner = strings[inner]
                counts[f"string {inner} -> {new_inner}"] += 1
            elif whole and re.fullmatch(r"\w+(\.\w+)+", inner) and not inner.startswith("lavra."):
                parts = in_text(name, inner, names, dotted).split(".")
                new_inner = ".".join([strings.get(part, part) for part in parts]) if not inner.endswith((".json", ".py", ".toml")) else inner
                if new_inner != inner:
                    note("dotted string renamed", f"{name}:{token.start[0]} {inner!r} -> {new_inner!r}")
            elif whole and before and i > 3 and tokens[i - 1].string == "," and "setattr" in [t.string for t in tokens[i - 5 : i]]:
                for old, new in dotted.items():
                    if old.rpartition(".")[2] == inner:
                        new_inner = new.rpartition(".")[2]
                        note("setattr name renamed", f"{name}:{token.start[0]} {inner} -> {new_inner}")
                if inner in names:
                    new_inner = names[inner]
            if (
                whole and inner in names and calls
                and (calls[-1] == "parametrize" and next(t for t in reversed(tokens[:i]) if t.type not in (tokenize.NL, tokenize.COMMENT)).string == "(" or len(calls) > 1 and calls[-2] == "parametrize" and calls[-1] == "")
                and groups[-1] == "("
            ):
                new_inner = names[inner]
            if new_inner == inner:
                new_inner = in_text(name, inner, names, dotted)
            if new_inner != inner:
                edits.append((begin, end, f"{whole[1]}{whole[2]}{new_inner}{whole[2]}" if whole else new_inner))
    for (line, column), new in pending.items():
        note("reference without a token", f"{name}:{line + 1}:{column} -> {new}")
    text = source.text
    doc_edits = docstrings(source, hits, starts)
    spans = {(b, e): n for b, e, n in edits}
    for (b, e), change in doc_edits.items():  # Args: lines and backticks of the names renamed in that definition
        spans[b, e] = change(spans.get((b, e), text[b:e]))
    clashes(source, hits)
    for b, e, n in sorted(((b, e, n) for (b, e), n in spans.items()), reverse=True):
        text = text[:b] + n + text[e:]
    return text


def docstrings(source: Source, hits: dict, starts: list[int]) -> dict:
    """Changes to docstrings: entries `name: …` of parameters and attributes that were renamed, and `name` in backticks."""
    changes = {}
    at_line: dict[int, list[tuple[int, str, str]]] = defaultdict(list)
    for (line, column), (old, new) in hits.items():
        at_line[line].append((column, old, new))

    def own(node) -> dict[str, str]:
        found = {}
        args = []
        members = [node] if not isinstance(node, ast.ClassDef) else [
            sub for sub in node.body if isinstance(sub, ast.FunctionDef) and sub.name == "__init__"
        ]
        for function in members:
            a = function.args
            args += [*a.posonlyargs, *a.args, *a.kwonlyargs]
        for arg in args:
            for column, old, new in at_line.get(arg.lineno, ()):
                if old == arg.arg:
                    found[old] = new
        if isinstance(node, ast.ClassDef):
            for sub in ast.walk(node):
                if isinstance(sub, ast.AnnAssign) and isinstance(sub.target, ast.Name):
                    word, line = sub.target.id, sub.lineno
                elif isinstance(sub, ast.Attribute) and isinstance(sub.ctx, ast.Store):
                    word, line = sub.attr, sub.lineno
                elif isinstance(sub, ast.FunctionDef):
                    word, line = sub.name, sub.lineno
                else:
                    continue
                for column, old, new in at_line.get(line, ()):
                    if old == word:
                        found[old] = new
        return found

    def visit(node, outer):
        for child in ast.iter_child_nodes(node):
            scope = outer
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                scope = {**outer, **own(child)}
                first = child.body[0]
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str) and scope:
                    v = first.value
                    b = starts[v.lineno - 1] + len(source.lines[v.lineno - 1].encode()[: v.col_offset].decode())
                    e = starts[v.end_lineno - 1] + len(source.lines[v.end_lineno - 1].encode()[: v.end_col_offset].decode())

                    def change(text, scope=dict(scope)):
                        for old, new in scope.items():
                            text = re.sub(rf"(?m)^(\s+\*{{0,2}}){old}(?=( \([^)\n]*\))?:( |$))", rf"\g<1>{new}", text)
                            text = re.sub(rf"`{old}`", f"`{new}`", text)
                        return text

                    changes[b, e] = change
            visit(child, scope)

    visit(source.tree, {})
    return changes


def clashes(source: Source, hits: dict) -> None:
    """Note functions in which a new name was there already as a local name or parameter."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            bound = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
            bound |= {s.id for s in ast.walk(node) if isinstance(s, ast.Name) and isinstance(s.ctx, ast.Store)}
            for (line, column), (old, new) in hits.items():
                if node.lineno <= line <= node.end_lineno and new in bound and source.lines[line - 1][column - 1 : column] != ".":
                    still = source.lines[line - 1]
                    note("NAME IN USE: look", f"{source.name}:{line} {old} -> {new} in {node.name}: {still.strip()[:90]}")


# ---- second pass: one constant a line ------------------------------------------------------------------------------------


def one_a_line(name: str, text: str) -> str:
    tree = ast.parse(text)
    lines = text.split("\n")
    for node in reversed(tree.body):
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Tuple)):
            continue
        target, value = node.targets[0], node.value
        if not (isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts)):
            note("not split (value is no tuple)", f"{name}:{node.lineno} {lines[node.lineno - 1]}")
            continue
        if any(isinstance(e, ast.Starred) for e in value.elts) or not all(isinstance(e, ast.Name) for e in target.elts):
            note("not split", f"{name}:{node.lineno}")
            continue
        after = tree.body[tree.body.index(node) + 1] if tree.body.index(node) + 1 < len(tree.body) else None
        comment = re.search(r"\s+(#.*)$", lines[node.end_lineno - 1]) if node.lineno == node.end_lineno else None
        has_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
        made = [f"{t.id} = {ast.get_source_segment(text, v)}" for t, v in zip(target.elts, value.elts)]
        if comment:
            made[0] += f"  {comment[1]}"
            note("comment stays with the first constant", f"{name}: {made[0]}")
        key = " ".join(t.id for t in target.elts)
        split = table.DOCSTRINGS.get((name, key))
        start, end = node.lineno - 1, node.end_lineno
        if has_doc:
            doc = lines[after.lineno - 1 : after.end_lineno]
            end = after.end_lineno
            if split is None:
                note("docstring stays with the first constant", f"{name}: {key}: {' '.join(doc)}")
                made = [made[0], *doc, *made[1:]]
        if split is not None:
            made = [line for one, text_ in zip(made, split) for line in ((one, f'"""{text_}"""') if text_ else (one,))]
        lines[start:end] = made
        counts["constants split"] += 1
    return "\n".join(lines)


# ---- files ---------------------------------------------------------------------------------------------------------------


def module_of(path: str) -> str:
    return path.removeprefix("src/").removeprefix("tests/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def moved_modules() -> None:
    moves = [(old, new) for old, new in FILES if (ROOT / old).exists()]
    for old, new in FILES:
        if not (ROOT / old).exists():
            note("file not there (passed over)", old)
    for old, new in moves:
        (ROOT / new).parent.mkdir(parents=True, exist_ok=True)
        git("mv", old, new)
        counts[f"file {old} -> {new}"] += 1
    patterns = []
    for old, new in moves:
        a, b = module_of(old), module_of(new)
        patterns.append((re.compile(rf"(?<![\w.]){re.escape(a)}(?![\w])"), b))
        head, _, last = a.rpartition(".")
        if head:
            patterns.append((re.compile(rf"(from {re.escape(head)} import (?:[\w, ]+, )?){last}\b"), rf"\g<1>{b.rpartition('.')[2]}"))
        for strip in ("src/lavra/", "", "tests/"):
            if old.startswith(strip):
                x, y = old.removeprefix(strip), new.removeprefix(strip)
                if "/" in x or x.startswith("test_") or not strip:
                    patterns.append((re.compile(rf"(?<![\w/.]){re.escape(x)}(?!\w)"), y))
    for name in tracked():
        if not relevant(name):
            continue
        text = (ROOT / name).read_text()
        new_text = text
        for pattern, to in patterns:
            if "." not in pattern.pattern and "/" not in pattern.pattern:
                new_text = re.sub(rf"(?m)^(\s*(?:from|import) ){pattern.pattern}", rf"\g<1>{to}", new_text)
            else:
                new_text = pattern.sub(to, new_text)
        if name.startswith(("tests/", "bench/")):
            for old, new in moves:  # plain helper modules of the tests
                if old.startswith("tests/"):
                    a, b = module_of(old), module_of(new)
                    new_text = re.sub(rf"(?m)^(\s*from ){a}(?= import)", rf"\g<1>{b}", new_text)
                    new_text = re.sub(rf"(?m)^(\s*import ){a}\b(?! as)", rf"\g<1>{b}", new_text)
                    if re.search(rf"(?m)^\s*import {b}$", new_text):
                        new_text = re.sub(rf"(?<![\w.\"'/]){a}(?=\.)", b, new_text)
        if new_text != text:
            (ROOT / name).write_text(new_text)


def relevant(name: str) -> bool:
    return (
        name.endswith((".py", ".html")) and name.startswith(("src/", "tests/", "bench/"))
        or name in ("Makefile", ".ci/run", "pyproject.toml", "bench/gpu.sh")
        or fnmatch.fnmatch(name, "docs/*.md") or fnmatch.fnmatch(name, "README*.md")
    )


def main() -> None:
    if git("status", "--porcelain") and "--dirty" not in sys.argv:
        sys.exit("the checkout has changes: commit or clean it first (or --dirty)")
    if any(node.name == "MasterWeights" for node in ast.parse((ROOT / "src/lavra/training/precision.py").read_text()).body if isinstance(node, ast.ClassDef)):
        sys.exit("this tree was renamed already")
    files = [name for name in tracked() if relevant(name)]
    sources = {name: Source(name) for name in files if name.endswith(".py")}
    renamed, fields, dotted = resolve(sources)
    results = {name: python(source, renamed, fields, dotted) for name, source in sources.items()}
    for name in files:
        if name not in sources:
            results[name] = in_text(name, (ROOT / name).read_text(), word_maps(name)[0], dotted)
    for name, text in results.items():
        if name.endswith(".py"):
            for old, new, globs in table.CODE:
                if within(name, globs):
                    if old in text:
                        counts[f"code {old.strip()[:50]}"] += 1
                    elif "*" not in globs:
                        note("code not there (passed over)", f"{name}: {old!r}")
                    text = text.replace(old, new)
            text = one_a_line(name, text)
            try:
                ast.parse(text)
            except SyntaxError as error:
                note("SYNTAX", f"{name}: {error}")
        if text != (ROOT / name).read_text():
            (ROOT / name).write_text(text)
    moved_modules()
    leftovers(renamed)
    if "--no-format" not in sys.argv:
        for words in (("check", "--fix", "-q", "src", "tests", "bench"), ("format", "-q", "src", "tests", "bench")):
            done = subprocess.run([str(VENV / "bin/ruff"), *words], cwd=ROOT, capture_output=True, text=True)
            if done.stdout.strip():
                print(done.stdout)
        shorten_all()
    git("add", "-A")
    for what, number in sorted(counts.items()):
        print(f"{number:5} {what}")
    for kind, found in notes.items():
        print(f"\n== {kind} ({len(found)})")
        print("\n".join(found))


def shorten_all() -> None:
    """Break docstring and comment lines that new names made too long; note those of code."""
    def long_lines() -> dict[str, list[int]]:
        found = defaultdict(list)
        done = subprocess.run([str(VENV / "bin/ruff"), "check", "--select", "E501", "--output-format", "concise", "src", "tests", "bench"],
                              cwd=ROOT, capture_output=True, text=True)
        for path, line in re.findall(r"(?m)^([^:\n]+):(\d+):\d+: E501", done.stdout):
            found[path].append(int(line))
        return found

    for _ in range(6):
        for path, numbers in long_lines().items():
            shorten(ROOT / path, numbers)
    subprocess.run([str(VENV / "bin/ruff"), "format", "-q", "src", "tests", "bench"], cwd=ROOT)
    for path, numbers in long_lines().items():
        for number in numbers:
            note("LINE TOO LONG: by hand", f"{path}:{number}")


def shorten(path: Path, numbers: list[int]) -> None:
    """Move the last words of a long comment or docstring line to the next line of its paragraph, where the code stays the same."""
    text = path.read_text()
    lines = text.split("\n")
    prose = {n.lineno + k for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
             and isinstance(n.value.value, str) for k in range(n.end_lineno - n.lineno + 1)}
    for number in sorted(numbers, reverse=True):
        line = lines[number - 1]
        piece = re.fullmatch(r'(\s*)((?:[\w ]+= ?)?)(f?)"([^"]*)"([,)]*)', line)
        if piece and not piece[2] and number not in prose:
            at = piece[4].rfind(" ", 0, 110 - len(piece[1])) + 1
            while at > 0 and piece[4][:at].count("{") != piece[4][:at].count("}"):
                at = piece[4].rfind(" ", 0, at - 1) + 1
            changed = [*lines]
            changed[number - 1 : number] = [f'{piece[1]}{piece[3]}"{piece[4][:at]}"', f'{piece[1]}{piece[3]}"{piece[4][at:]}"{piece[5]}']
            if at > 0 and same_code("\n".join(lines), "\n".join(changed)):
                lines = changed
            continue
        if number not in prose and not line.lstrip().startswith("#"):
            continue
        at = line.rfind(" ", 0, 121)
        if at <= len(line) - len(line.lstrip()) + 1:
            continue
        indent = line[: len(line) - len(line.lstrip())]
        comment = line.lstrip().startswith("#")
        lead = indent + ("# " if comment else "")
        if not comment and re.match(r"\s+\*{0,2}\w+(, \w+)*( \([^)]*\))?: ", line):
            lead = indent + "    "
        head, tail = line[:at].rstrip(), line[at + 1 :]
        if not comment and tail.rstrip() == '"""' :
            continue
        after = lines[number] if number < len(lines) else ""
        joins = after.startswith(lead) and after[len(lead) :][:1].strip() and not (
            not comment and re.match(r"\s+\*{0,2}\w+(, \w+)*( \([^)]*\))?: ", after)
        ) and not tail.rstrip().endswith('"""') and not after.strip().startswith(("- ", "| ", '"""', "def ", "return"))
        changed = list(lines)
        if joins:
            changed[number - 1 : number + 1] = [head, f"{lead}{tail} {after[len(lead):]}"]
        else:
            changed[number - 1 : number] = [head, f"{lead}{tail}"]
        if same_code("\n".join(lines), "\n".join(changed)):
            lines = changed
    path.write_text("\n".join(lines))


def same_code(one: str, other: str) -> bool:
    """Whether two texts are one program, but for the space in docstrings and comments."""
    def plain(text: str) -> str:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                node.value.value = " ".join(node.value.value.split())
        return ast.dump(tree)

    try:
        return plain(one) == plain(other)
    except SyntaxError:
        return False


def leftovers(renamed: dict) -> None:
    """Note uses of an old name of a symbol that is rare enough to be looked at."""
    olds = {re.findall(r"\w+", spec)[-1]: new for spec, new, options in SYMBOLS}
    for name in tracked():
        if name.endswith(".py") and relevant(name):
            text = (ROOT / name).read_text()
            try:
                tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
            except (tokenize.TokenError, SyntaxError):
                continue
            for i, token in enumerate(tokens):
                if token.type == tokenize.NAME and token.string in olds and token.string not in table.COMMON:
                    if tokens[i - 1].string == "." or tokens[i + 1].string == "=" and tokens[i - 1].string in "(,":
                        note("left with the old name of a symbol: look", f"{name}:{token.start[0]} {token.string}: {token.line.strip()[:100]}")
                if token.type == tokenize.STRING and token.string.strip("\"'") in olds and token.string.strip("\"'") not in table.COMMON:
                    note("string with the old name of a symbol: look", f"{name}:{token.start[0]} {token.line.strip()[:100]}")


main()
