"""The sentences that NMI and MIC can return, read from their source code.

A sentence with variable parts is a tuple of its constant parts. An expression that this module cannot evaluate is an
error, so that no sentence is missed.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.support.checkout import ROOT

Function = ast.FunctionDef | ast.AsyncFunctionDef

PASSED_ON: Final = {"error.sentence", "f'{texts.sentence(error)}{suffix}.{azure_sentence}'"}
"""The texts of a PolicyError and of a row of nmi/error_refusals.py, which are read at their own calls."""


@dataclass(frozen=True)
class Sentence:
    """A text that a pod can receive, and its reason."""

    parts: tuple[str, ...]
    reason: str
    """Name of the member of `Reason`; POLICY for a PolicyError."""
    where: str


def pattern(parts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any text between the constant *parts*."""
    return re.compile(".*".join(map(re.escape, parts)))


def refusals() -> list[Sentence]:
    """Return every sentence that a Refusal of NMI can contain."""
    modules = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "nmi").rglob("*.py"))}
    called = {path: list(calls(module, None)) for path, module in modules.items()}
    return [
        Sentence(parts, reason, f"{path.relative_to(ROOT)}:{call.lineno}")
        for path, function_calls in called.items()
        for name, function, call in function_calls
        if name in {"Refusal", "PolicyError", "_ErrorTexts"}
        for reason, parts in _of(name, call, function, list(modules.values()))
    ]


def calls(node: ast.AST, function: Function | None) -> Iterator[tuple[str, Function | None, ast.Call]]:
    """Yield each call of a plain name in *node*, with the name and the innermost function that contains the call."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node
    # A pattern of a match statement (`case Refusal():`) is not a call in the tree.
    if isinstance(node, ast.Call):
        called = node.func.value if isinstance(node.func, ast.Subscript) else node.func  # a generic class
        if isinstance(called, ast.Name):
            yield called.id, function, node
    for child in ast.iter_child_nodes(node):
        yield from calls(child, function)


def _of(
    name: str, call: ast.Call, function: Function | None, modules: list[ast.Module]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the reason and the parts of each sentence of a call."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if name == "_ErrorTexts":
        # A row of nmi/error_refusals.py: `refusal_of` adds known facts, the end of the sentence, and Azure's response.
        _, kind, sentence, *_ = call.args
        assert isinstance(kind, ast.Attribute), ast.dump(kind)
        assert isinstance(sentence, ast.Lambda), ast.dump(sentence)
        for parts in texts(sentence.body, None, modules):
            yield kind.attr, (*parts, ".", *([""] if "with_azure_sentence" in named else []))
        return
    given = [
        *call.args,
        *(named[argument] for argument in ("reason", "sentence")[len(call.args) :] if argument in named),
    ]
    reason = "POLICY"
    if name == "Refusal":
        first = given.pop(0)
        assert isinstance(first, ast.Attribute), ast.dump(first)
        reason = first.attr
    if ast.unparse(given[0]) not in PASSED_ON:
        for parts in texts(given[0], function, modules):
            yield reason, parts


def texts(expression: ast.expr, function: Function | None, modules: list[ast.Module]) -> Iterator[tuple[str, ...]]:
    """Yield the values of *expression* in *function*: a text, an assigned text, or an argument of callers."""
    match expression:
        case ast.Constant(value=str(text)):
            yield (text,)
        case ast.JoinedStr():
            parts = [str(part.value) for part in expression.values if isinstance(part, ast.Constant)]
            first, last = (isinstance(expression.values[at], ast.Constant) for at in (0, -1))
            # A variable end has an empty part.
            yield (*([] if first else [""]), *parts, *([] if last else [""]))
        case ast.Name(id=name) if function is not None:
            assigned = [
                node.value
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
            ]
            parameters = [argument.arg for argument in function.args.args]
            if not assigned and name in parameters:
                assigned = [
                    call.args[parameters.index(name)]
                    for module in modules
                    for called, _, call in calls(module, None)
                    if called == function.name
                ]
            assert assigned, f"{function.name}: nothing is known of {name}"
            for assigned_value in assigned:
                yield from texts(assigned_value, None, modules)
        case ast.Subscript(value=ast.Name(id=name)):
            # A row of a table of texts in a module.
            for module in modules:
                for row in module.body:
                    if isinstance(row, ast.AnnAssign) and ast.unparse(row.target) == name:
                        assert isinstance(row.value, ast.Dict), name
                        for value in row.value.values:
                            yield from texts(value, None, modules)
        case _:
            raise AssertionError(f"not a text that can be read here: {ast.unparse(expression)}")


def returned(path: str, *functions: str) -> list[tuple[str, ...]]:
    """Return every text that one of *functions* of the file at *path* returns."""
    module = ast.parse((ROOT / path).read_text())
    return [
        parts
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef) and function.name in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.JoinedStr | ast.Constant)
        for parts in texts(node.value, function, [module])
        if any(parts)
    ]
