"""The sentences that NMI and MIC can return, read from their source code.

A sentence with variable parts is a tuple of its constant parts. An expression that this module cannot evaluate is an
error, so that no sentence is missed.
"""

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.support.checkout import ROOT

Function = ast.FunctionDef | ast.AsyncFunctionDef

PASSED_ON: Final = {"error.sentence", "f'{texts.sentence(error)}{suffix}.{answer}'"}
"""The texts of a PolicyError and of a row of nmi/error_refusals.py, which are read at their own calls."""


@dataclass(frozen=True)
class Sentence:
    """A text that a pod can receive, and its reason."""

    parts: tuple[str, ...]
    reason: str
    """Name of the member of `Reason`; POLICY for a PolicyError."""
    where: str

    @property
    def pattern(self) -> re.Pattern[str]:
        return pattern(self.parts)


def pattern(parts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any text between the constant *parts*."""
    return re.compile(".*".join(map(re.escape, parts)))


def refusals() -> list[Sentence]:
    """Return every sentence that a Refusal of NMI can contain."""
    modules = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "nmi").rglob("*.py"))}
    return [
        Sentence(parts, reason, f"{path.relative_to(ROOT)}:{call.lineno}")
        for path, module in modules.items()
        for function, call in calls(module, {"Refusal", "PolicyError", "_ErrorTexts"})
        for reason, parts in _of(call, function, list(modules.values()))
    ]


def calls(module: ast.Module, names: set[str]) -> Iterator[tuple[Function | None, ast.Call]]:
    """Yield each call of one of *names*, with the innermost function that contains it."""
    for name, function, call in _named_calls(module):
        if name in names:
            yield function, call


@functools.cache
def _named_calls(module: ast.Module) -> list[tuple[str, Function | None, ast.Call]]:
    """Return each call of a plain name, with the name and the innermost function that contains the call."""

    def within(node: ast.AST, function: Function | None) -> Iterator[tuple[str, Function | None, ast.Call]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node
        # A pattern of a match statement (`case Refusal():`) is not a call in the tree.
        if isinstance(node, ast.Call) and (name := _name_of(node.func)):
            yield name, function, node
        for child in ast.iter_child_nodes(node):
            yield from within(child, function)

    return list(within(module, None))


def _name_of(called: ast.expr) -> str:
    """Return the plain name that is called, also of a generic class with a type argument."""
    if isinstance(called, ast.Subscript):
        called = called.value
    return called.id if isinstance(called, ast.Name) else ""


def _of(call: ast.Call, function: Function | None, modules: list[ast.Module]) -> Iterator[tuple[str, tuple[str, ...]]]:
    named = {each.arg: each.value for each in call.keywords}
    name = _name_of(call.func)
    if name == "_ErrorTexts":
        # A row of nmi/error_refusals.py: `refusal_of` adds known facts, the end of the sentence, and Azure's answer.
        _, kind, sentence, *_ = call.args
        assert isinstance(kind, ast.Attribute), ast.dump(kind)
        assert isinstance(sentence, ast.Lambda), ast.dump(sentence)
        for parts in texts(sentence.body, None, modules):
            yield kind.attr, (*parts, ".", *([""] if "with_answer" in named else []))
        return
    if name == "PolicyError":
        reason, expression = "POLICY", call.args[0] if call.args else named["sentence"]
    else:
        first = call.args[0] if call.args else named["reason"]
        assert isinstance(first, ast.Attribute), ast.dump(first)
        reason, expression = first.attr, call.args[1] if len(call.args) > 1 else named["sentence"]
    if ast.unparse(expression) not in PASSED_ON:
        for parts in texts(expression, function, modules):
            yield reason, parts


def texts(expression: ast.expr, function: Function | None, modules: list[ast.Module]) -> Iterator[tuple[str, ...]]:
    """Yield the values of the expression *said* in *function*: a text, an assigned text, or an argument of callers."""
    match expression:
        case ast.Constant(value=str(text)):
            yield (text,)
        case ast.JoinedStr():
            yield tuple(str(each.value) if isinstance(each, ast.Constant) else "" for each in _merged(expression))
        case ast.Name(id=name) if function is not None:
            assigned = [
                each.value
                for each in ast.walk(function)
                if isinstance(each, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in each.targets)
            ]
            places = [each.arg for each in function.args.args]
            if not assigned and name in places:
                assigned = [
                    call.args[places.index(name)] for module in modules for _, call in calls(module, {function.name})
                ]
            assert assigned, f"{function.name}: nothing is known of {name}"
            for each in assigned:
                yield from texts(each, None, modules)
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


def _merged(expression: ast.JoinedStr) -> list[ast.expr]:
    """Return the constants of *said*, with an empty one at each end that is variable."""
    empty = ast.Constant(value="")
    values = [each for each in expression.values if isinstance(each, ast.Constant)]
    first = [] if isinstance(expression.values[0], ast.Constant) else [empty]
    last = [] if isinstance(expression.values[-1], ast.Constant) else [empty]
    return [*first, *values, *last]


def returned(path: str, *functions: str) -> list[tuple[str, ...]]:
    """Return every text that one of *functions* of the file at *path* returns."""
    module = ast.parse((ROOT / path).read_text())
    return [
        parts
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef) and function.name in functions
        for each in ast.walk(function)
        if isinstance(each, ast.Return) and isinstance(each.value, ast.JoinedStr | ast.Constant)
        for parts in texts(each.value, function, [module])
        if any(parts)
    ]
