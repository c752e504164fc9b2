"""The text of nginx.conf."""

from pathlib import Path

import pytest

from benchmarks.load.nginx import configuration


def written(answer: bytes = b'{"a":"b"}', *, user: str = "") -> str:
    return configuration(answer, "application/json", address="127.0.0.1", port=81, kept=Path("/kept"), user=user)


def test_the_configuration_contains_the_answer_and_its_content_type() -> None:
    assert """return 200 '{"a":"b"}';""" in written()
    assert "default_type application/json;" in written()


def test_one_worker_writes_nothing_and_keeps_connections_open() -> None:
    for line in ("worker_processes 1;", "access_log off;", "keepalive_requests 1000000000;", "daemon off;"):
        assert line in written()


def test_it_listens_with_nmis_backlog() -> None:
    assert "listen 127.0.0.1:81 backlog=4096;" in written()


def test_all_files_that_nginx_could_write_are_in_its_own_directory() -> None:
    paths = [line.split()[1] for line in written().splitlines() if "_temp_path" in line or line.startswith("pid")]
    assert len(paths) == 6
    assert all(path.startswith("/kept/") for path in paths)


def test_the_worker_keeps_the_user_that_started_nginx_if_it_is_root() -> None:
    assert "user unprivileged;" in written(user="unprivileged")
    assert "user " not in written()


@pytest.mark.parametrize("answer", [b"it's", b"$uri", b"a\\b", b"a\nb", b"x" * 4001])
def test_an_answer_that_nginx_would_interpret_is_rejected(answer: bytes) -> None:
    with pytest.raises(ValueError, match="nginx takes up to 4000 bytes"):
        written(answer)


def test_the_longest_answer_is_accepted() -> None:
    assert "x" * 4000 in written(b"x" * 4000)
