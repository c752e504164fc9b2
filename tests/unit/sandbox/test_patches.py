"""The patch types as functions. The response to a patch that does not apply is in test_equals_the_real_server."""

from typing import Any

import pytest

from podidentity_sandbox.kubeapi.patching import json_patch, merge, strategic_merge
from podidentity_sandbox.kubeapi.statuses import StatusError


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        # RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "foo"}, None, None),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patches_follow_the_rfc(target: Any, patch: Any, merged: Any) -> None:
    assert merge(target, patch) == merged


@pytest.mark.parametrize(
    ("operation", "patched"),
    [
        ({"op": "add", "path": "/a", "value": 2}, {"a": 2, "list": [1, 2], "s/l~": "x"}),
        ({"op": "add", "path": "/list/-", "value": 3}, {"a": 1, "list": [1, 2, 3], "s/l~": "x"}),
        ({"op": "add", "path": "/list/0", "value": 0}, {"a": 1, "list": [0, 1, 2], "s/l~": "x"}),
        ({"op": "remove", "path": "/list/0"}, {"a": 1, "list": [2], "s/l~": "x"}),
        ({"op": "replace", "path": "/s~1l~0", "value": "y"}, {"a": 1, "list": [1, 2], "s/l~": "y"}),
        ({"op": "move", "from": "/a", "path": "/b"}, {"b": 1, "list": [1, 2], "s/l~": "x"}),
        ({"op": "copy", "from": "/a", "path": "/list/0"}, {"a": 1, "list": [1, 1, 2], "s/l~": "x"}),
        ({"op": "test", "path": "/list", "value": [1, 2]}, {"a": 1, "list": [1, 2], "s/l~": "x"}),
        ({"op": "test", "path": "/none", "value": None}, {"a": 1, "list": [1, 2], "s/l~": "x"}),
    ],
)
def test_json_patch_operations_apply(operation: Any, patched: Any) -> None:
    document = {"a": 1, "list": [1, 2], "s/l~": "x"}
    assert json_patch(document, [operation]) == patched
    assert document == {"a": 1, "list": [1, 2], "s/l~": "x"}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "test", "path": "/a", "value": True},
        {"op": "remove", "path": "/none"},
        {"op": "replace", "path": "/none", "value": 1},
        {"op": "add", "path": "/none/deeper", "value": 1},
        {"op": "add", "path": "/list/3", "value": 1},
        {"op": "add", "path": "/list/01x", "value": 1},
        {"op": "add", "path": "a", "value": 1},
        {"op": "add", "path": "/a"},
        {"op": "add", "path": "/a/b", "value": 1},
        {"op": "remove", "path": ""},
        {"op": "unheard of", "path": "/a"},
        {"path": "/a"},
        {"op": "add", "path": 7, "value": 1},
    ],
)
def test_json_patch_operations_that_do_not_apply_are_refused(operation: Any) -> None:
    with pytest.raises(StatusError) as refused:
        json_patch({"a": 1, "list": [1, 2]}, [operation])
    assert refused.value.code == 422


def test_too_many_operations_are_refused() -> None:
    operation = {"op": "test", "path": "/a", "value": 1}
    assert json_patch({"a": 1}, [operation] * 10_000) == {"a": 1}
    with pytest.raises(StatusError) as refused:
        json_patch({"a": 1}, [operation] * 10_001)
    assert refused.value.code == 413


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        pytest.param(
            {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]},
            {"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]},
            {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]},
            id="lists merge by key",
        ),
        pytest.param(
            {"containers": [{"name": "a"}, {"name": "b"}]},
            {"containers": [{"name": "a", "$patch": "delete"}]},
            {"containers": [{"name": "b"}]},
            id="an item is deleted by key",
        ),
        pytest.param(
            {"containers": [{"name": "a"}, {"name": "b"}]},
            {"containers": [{"name": "c"}, {"$patch": "replace"}]},
            {"containers": [{"name": "c"}]},
            id="a list is replaced",
        ),
        pytest.param({"tolerations": [{"key": "a"}]}, {"tolerations": []}, {"tolerations": []}, id="others replace"),
        pytest.param(
            {"finalizers": ["a", "b"]},
            {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]},
            {"finalizers": ["b", "c"]},
            id="finalizers merge and leave",
        ),
        pytest.param(
            {"containers": [{"name": "a"}, {"name": "b"}]},
            {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "x": 1}]},
            {"containers": [{"name": "b"}, {"name": "a", "x": 1}]},
            id="the order is set",
        ),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"$patch": "replace", "d": 3}}, {"a": {"d": 3}}, id="map replaced"),
        pytest.param({"a": {"b": 1}, "c": 2}, {"a": {"$patch": "delete"}}, {"c": 2}, id="map deleted"),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"$retainKeys": ["b"], "b": 3}}, {"a": {"b": 3}}, id="keys kept"),
        pytest.param({"a": 1, "b": 2}, {"a": None}, {"b": 2}, id="null removes"),
    ],
)
def test_strategic_merges(target: Any, patch: Any, merged: Any) -> None:
    assert strategic_merge(target, patch) == merged
