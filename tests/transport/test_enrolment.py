from __future__ import annotations

import base64
import subprocess

import msgspec
import pytest
from hypothesis import given, strategies as st

from psync.errors import NotPaired, ProtocolError, Refused
from psync.model import HostFacts, Tool
from psync.transport.enrolment import (
    MAX_PAYLOAD,
    EnrolAnswer,
    EnrolRefused,
    EnrolRequest,
    decode_answer,
    decode_request,
    encode,
    frame,
    unframe,
)

NONCE = "5f0c2a9be1d84477"

REQUEST = EnrolRequest(name="desk", client_id="desk-0123456789abcdef", csr=b"-----BEGIN")

ANSWER = EnrolAnswer(
    client_cert=b"-----BEGIN CERTIFICATE-----",
    ca_cert=b"-----BEGIN CERTIFICATE-----",
    server_name="d-0123456789abcdef.psync.invalid",
    port=7433,
    listen=("127.0.0.1:7433", "[::1]:7433"),
    facts=HostFacts(
        hostname="handheld",
        system="Linux",
        machine="x86_64",
        projects_root=b"/home/\xff/projects",
        rsync=Tool("/usr/bin/rsync", "3.2.7"),
        server="/usr/bin/psync-server",
        software="psync-server 0.1.0",
    ),
)


# -- messages --------------------------------------------------------------------------------------


def test_both_ways() -> None:
    assert decode_request(encode(REQUEST)) == REQUEST
    assert decode_answer(encode(ANSWER)) == ANSWER


def test_a_refusal_becomes_the_error_it_names() -> None:
    refused = EnrolRefused.of(NotPaired("no\x1b[31m", hint="do\nthis"))
    with pytest.raises(NotPaired) as caught:
        decode_answer(encode(refused))
    assert caught.value.message == "no\\x1b[31m"
    assert caught.value.hint == "do\\nthis"


def test_an_unknown_refusal_is_a_refusal() -> None:
    with pytest.raises(Refused, match="because"):
        decode_answer(encode(EnrolRefused(code="of-tomorrow", message="because")))


def test_a_long_refusal_fits() -> None:
    with pytest.raises(ProtocolError):
        decode_answer(encode(EnrolRefused.of(ProtocolError("x" * 10**6, hint="y" * 10**6))))


def change(message: EnrolRequest | EnrolAnswer, **fields: object) -> bytes:
    loaded: dict[str, object] = msgspec.json.decode(encode(message))
    loaded.update(fields)
    return msgspec.json.encode(loaded)


def test_another_version_is_named_before_anything_else() -> None:
    with pytest.raises(ProtocolError, match=r"version 2.*version 1") as caught:
        decode_request(change(REQUEST, version=2, invitation="x", csr=None))
    assert "same version" in caught.value.hint


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": None},
        {"client_id": "desk"},
        {"client_id": "desk-0123456789abcdef\n"},
        {"client_id": "../desk-0123456789abcdef"},
        {"csr": ""},
        {"csr": "???"},
        {"csr": base64.b64encode(bytes(17 * 1024)).decode()},
        {"version": "1"},
        {"more": 1},
    ],
)
def test_a_strange_request_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        decode_request(change(REQUEST, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"port": 65536},
        {"port": -1},
        {"server_name": "a b"},
        {"server_name": "a\n"},
        {"server_name": ""},
        {"listen": ["x"] * 65},
        {"facts": {}},
        {"type": "else"},
        {"more": 1},
    ],
)
def test_a_strange_answer_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(change(ANSWER, **fields))


@given(st.binary())
def test_garbage_is_a_protocol_error(payload: bytes) -> None:
    for decode in (decode_request, decode_answer):
        with pytest.raises(ProtocolError):
            decode(payload)


def test_depth_and_size_are_bounded() -> None:
    for payload in (b"[" * 60000, b'{"version":1,"x":' + b"[" * 60000, b" " * (MAX_PAYLOAD + 1)):
        with pytest.raises(ProtocolError):
            decode_request(payload)


# -- frames ----------------------------------------------------------------------------------------

noise = st.binary(max_size=300).filter(lambda text: b"psync-answer" not in text)


@given(noise, st.binary(max_size=2000), noise)
def test_noise_around_a_frame_is_ignored(before: bytes, payload: bytes, after: bytes) -> None:
    framed = frame(NONCE, payload)
    assert unframe(before + framed + after, NONCE) == payload
    # a terminal between makes every line end CR LF
    crlf = framed.replace(b"\n", b"\r\n")
    assert unframe(before + crlf + after, NONCE) == payload


def test_a_banner_without_a_line_end_does_no_harm() -> None:
    assert unframe(b"Welcome! $ " + frame(NONCE, b"payload") + b"$ logout", NONCE) == b"payload"


def test_a_payload_broken_into_lines_is_one() -> None:
    payload = bytes(range(256)) * 8
    broken = b"\r\n".join(base64.encodebytes(payload).split(b"\n"))
    begin, end = f"psync-answer-begin {NONCE}\r\n", f"\r\npsync-answer-end {NONCE}\r\n"
    assert unframe(begin.encode() + broken + end.encode(), NONCE) == payload


def test_a_frame_of_somebody_else_is_none() -> None:
    other = frame("0000000000000000", b"other")
    with pytest.raises(ProtocolError, match="did not answer"):
        unframe(other, NONCE)
    assert unframe(other + frame(NONCE, b"mine") + other, NONCE) == b"mine"


def test_the_command_line_echoed_is_no_frame() -> None:
    echoed = f"+ psync-server enroll --nonce {NONCE}\npsync-answer-begin {NONCE}\n$ \n".encode()
    assert unframe(echoed + frame(NONCE, b"payload"), NONCE) == b"payload"
    with pytest.raises(ProtocolError):
        unframe(echoed, NONCE)


def test_through_a_shell_with_noisy_start_up_files() -> None:
    framed = frame(NONCE, encode(ANSWER))
    script = 'printf "motd\\r\\nno line end"; cat; printf "bye"; printf "\\033[0m\\n"'
    done = subprocess.run(
        ["/bin/sh", "-c", script], input=framed, stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert decode_answer(unframe(done.stdout, NONCE)) == ANSWER


def test_what_came_instead_is_shown_harmlessly_and_in_part() -> None:
    with pytest.raises(ProtocolError) as caught:
        unframe(b"sh: 1: \x1b[31mpsync-server: not found\n" + b"x" * 10**6, NONCE)
    message = caught.value.message
    assert "sh: 1: \\x1b[31mpsync-server: not found\\n" in message
    assert len(message) < 400
    assert message.isprintable()
    assert "installed" in caught.value.hint


@pytest.mark.parametrize("output", [b"", b"\r\n\n", b" \t"])
def test_nothing_is_called_nothing(output: bytes) -> None:
    with pytest.raises(ProtocolError, match="nothing at all came back"):
        unframe(output, NONCE)


@pytest.mark.parametrize("cut", [1, 10, 25, 40, 60])
def test_a_cut_frame_is_none(cut: int) -> None:
    framed = frame(NONCE, b"payload of some length")
    with pytest.raises(ProtocolError):
        unframe(framed[: len(framed) - 1 - cut], NONCE)


def test_damaged_base64_is_damage() -> None:
    framed = frame(NONCE, b"payload of some length").replace(b"=\n", b"\n")
    with pytest.raises(ProtocolError, match="damaged"):
        unframe(framed, NONCE)


def test_the_size_is_bounded() -> None:
    assert unframe(frame(NONCE, bytes(MAX_PAYLOAD)), NONCE) == bytes(MAX_PAYLOAD)
    with pytest.raises(ProtocolError, match="limit"):
        frame(NONCE, bytes(MAX_PAYLOAD + 1))
    large = base64.b64encode(bytes(MAX_PAYLOAD + 4))
    text = f"psync-answer-begin {NONCE}\n{large.decode()}\npsync-answer-end {NONCE}\n"
    with pytest.raises(ProtocolError, match="limit"):
        unframe(text.encode(), NONCE)


@pytest.mark.parametrize("nonce", ["", "short", "with space 1234", "a" * 65, "abcdefgh\n", "é" * 8])
def test_a_nonce_is_a_word(nonce: str) -> None:
    with pytest.raises(ProtocolError, match="nonce"):
        frame(nonce, b"")
    with pytest.raises(ProtocolError, match="nonce"):
        unframe(b"", nonce)
