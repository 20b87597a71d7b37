"""What a plugin writes."""

import os
from contextlib import closing

import pytest
import structlog

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.plugin_host_output import Address, PluginOutput


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("1|1|unix|/tmp/plugin1|grpc|", "unix:/tmp/plugin1"),
        ("1|1|unix|/tmp/plugin1|grpc", "unix:/tmp/plugin1"),
        ("1|1|unix|/tmp/plugin1|grpc||true\n", "unix:/tmp/plugin1"),
        ("1|1|tcp|127.0.0.1:10000|grpc|", "ipv4:127.0.0.1:10000"),
        ("1|1|tcp|[::1]:10000|grpc|", "ipv6:[::1]:10000"),
    ],
)
def test_a_plugin_says_where_it_listens(line, target):
    assert Address.parse(line).target == target


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("hello", "Unrecognized remote plugin message: hello"),
        ("", "Unrecognized"),
        ("2|1|unix|/a|grpc|", "it speaks version 1 of the plugin protocol .handshake 2."),
        ("1|2|unix|/a|grpc|", "it speaks version 2"),
        ("1|1|unix|/a|netrpc|", "it speaks netrpc, this host gRPC"),
        ("1|1|unix|/a", "it speaks net/rpc, this host gRPC"),
        ("1|1|tcp|192.0.2.1:10000|grpc|", "which is not on this machine"),
        ("1|1|tcp|127.0.0.1:x|grpc|", "which is not on this machine"),
        ("1|1|unix|relative|grpc|", "which is not on this machine"),
    ],
)
def test_a_line_of_another_protocol_is_refused(line, text):
    with pytest.raises(InvalidConfig, match=f"failed to launch plugin: .*{text}"):
        Address.parse(line)


class Pipes:
    """A plugin's two pipes."""

    def __init__(self) -> None:
        out, self._out = os.pipe()
        err, self._err = os.pipe()
        self.output = PluginOutput(os.fdopen(out, "rb", 0), os.fdopen(err, "rb", 0), {"plugin_name": "test"})

    def write(self, stdout: bytes = b"", stderr: bytes = b"") -> None:
        os.write(self._out, stdout)
        os.write(self._err, stderr)

    def close(self) -> None:
        os.close(self._out)
        os.close(self._err)
        self.output.drain()


def test_log_lines_of_a_plugin_are_logged_at_their_level():
    with structlog.testing.capture_logs() as logs, closing(Pipes()) as pipes:
        pipes.write(
            b"1|1|unix|/a|grpc|\nprinted\n",
            b'{"@level":"warn","@message":"mind this","@module":"x","@timestamp":"t","answer":42}\n'
            b'{"@level":"trace","@message":"detail","event":"x","plugin_name":"forged"}\n'
            b"panic: no JSON\n[]\n",
        )
        assert pipes.output.address(10).target == "unix:/a"
    found = [(line["log_level"], line["event"]) for line in logs if "line" not in line]
    assert found == [("warning", "mind this"), ("debug", "detail"), ("debug", "panic: no JSON"), ("debug", "[]")]
    assert {line["plugin_name"] for line in logs} == {"test"}
    assert [line["answer"] for line in logs if "answer" in line] == [42]
    assert [line["line"] for line in logs if "line" in line] == ["printed"]


def test_the_last_words_of_a_plugin_are_told():
    pipes = Pipes()
    pipes.write(stderr=b"one\nno such thing\n")
    os.close(pipes._out)
    os.close(pipes._err)
    with pytest.raises(InvalidConfig, match="it ended without saying where it listens: one / no such thing"):
        pipes.output.address(10)
    pipes.output.drain()


def test_a_plugin_that_says_nothing_is_not_waited_for_for_ever():
    with closing(Pipes()) as pipes, pytest.raises(InvalidConfig, match=r"it did not say within 0\.01 s"):
        pipes.output.address(0.01)
