"""HCL 1's tokens: what SPIRE's scanner (hashicorp/hcl 1) takes for a word, a number, a string, a heredoc."""

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

from spiffe_core.errors import InvalidConfig

END: Final = "end"
"""The kind of the token after the last one."""

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\n]*|//[^\n]*|/\*.*?\*/)
      | (?P<word>[^\W\d][\w.-]*)
      | (?P<number>-?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]*)?)|\.[0-9]+(?:[eE][+-]?[0-9]*)?)
      | (?P<mark>[{}\[\],=])
      | (?P<string>")
      | <<(?P<heredoc>-?\w+)\n""",
    re.DOTALL | re.VERBOSE,
)
_ESCAPE: Final = re.compile(r'\\(?:([abfnrtv\\"])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))')
_PLAIN_ESCAPES: Final = dict(zip('abfnrtv\\"', '\a\b\f\n\r\t\v\\"', strict=True))
_LAST_CODE_POINT: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)


@dataclass(frozen=True, slots=True)
class Token:
    """One token; ``at`` is where it starts."""

    kind: str
    """``word``, ``bool``, ``number``, ``string``, ``heredoc``, ``end``, or the mark itself."""
    value: str
    """A string's is what it means, escapes resolved."""
    at: int

    def __str__(self) -> str:
        return "the end of the text" if self.kind == END else f"{self.kind} {self.value[:40]!r}"


class Scanner:
    """Reads the tokens of a text one after the other; its lines end in a line feed alone."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def next(self) -> Token:
        """The next token, or END again and again.

        Raises:
            InvalidConfig: if there is something that is none.
        """
        while self._at < len(self._text):
            at = self._at
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise self.error(at, self._explain(at))
            self._at = match.end()
            match match.lastgroup:
                case "space":
                    continue
                case "string":
                    return Token("string", self._string(at), at)
                case "heredoc":
                    return Token("heredoc", self._heredoc(match["heredoc"], at), at)
                case "word" if match[0] in {"true", "false"}:
                    return Token("bool", match[0], at)
                case "mark":
                    return Token(match[0], match[0], at)
                case kind:
                    return Token(str(kind), match[0], at)
        return Token(END, "", self._at)

    def line(self, at: int) -> int:
        """The line of a place in the text, from 1."""
        return bisect_right(self._lines, at)

    def error(self, at: int, message: str) -> InvalidConfig:
        """The message with its place, as SPIRE writes places."""
        line = self.line(at)
        return InvalidConfig(f"At {line}:{at - self._lines[line - 1] + 1}: {message}")

    def _string(self, start: int) -> str:
        """The string whose opening quote was just read; what stands in ``${...}`` is taken as it is."""
        parts: list[str] = []
        braces = 0
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"' and not braces:
                self._at += 1
                return "".join(parts)
            if char == "\n" and not braces:
                break
            if char == "\\":
                written, meant = self._escape()
                parts.append(written if braces else meant)
                continue
            if braces:
                braces += (char == "{") - (char == "}")
            elif self._text.startswith("${", self._at):
                braces = 1
                char = "${"
            parts.append(char)
            self._at += len(char)
        raise self.error(start, "literal not terminated")

    def _escape(self) -> tuple[str, str]:
        """An escape as it is written and what it means."""
        match = _ESCAPE.match(self._text, self._at)
        if match is None:
            raise self.error(self._at, "illegal char escape")
        self._at = match.end()
        plain, octal, *hexadecimal = match.groups()
        if plain:
            return match[0], _PLAIN_ESCAPES[plain]
        code = int(octal, 8) if octal else int(next(filter(None, hexadecimal)), 16)
        if code > _LAST_CODE_POINT or code in _SURROGATES:
            raise self.error(match.start(), "illegal char escape")
        return match[0], chr(code)

    def _heredoc(self, anchor: str, start: int) -> str:
        """The lines up to the anchor; ``<<-`` takes the anchor's indentation from lines that all have it."""
        end = re.compile(rf"^(?P<indent>\s*?){re.escape(anchor.lstrip('-'))}\r*\n", re.MULTILINE)
        match = end.search(self._text, self._at)
        if match is None:
            raise self.error(start, "heredoc not terminated")
        body, indent = self._text[self._at : match.start()], match["indent"]
        self._at = match.end()
        lines = body.splitlines(keepends=True)
        if anchor.startswith("-") and all(line.startswith(indent) for line in lines):
            return "".join(line[len(indent) :] for line in lines)
        return body

    def _explain(self, at: int) -> str:
        """Why no token starts there."""
        if self._text.startswith("/*", at):
            return "comment not terminated"
        if self._text[at] == "/":
            return "expected '/' for comment"
        if self._text[at] == "<":
            return "a heredoc starts with '<<' and an anchor that ends its line"
        return f"illegal char {self._text[at]!r}"
