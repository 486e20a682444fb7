"""Co-writing: a person and a model write lines in turn, on a terminal or through a pipe.

The text is a list of turns with a session before and after each. Sessions are values: undo drops the last turn, and
another draft is a fork of the session before it. Nothing is ever read twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.formatting import plural
from textgen.generation import SampleOptions, check_sampling
from textgen.options import check
from textgen.screen import Output, encoded, say, warn
from textgen.storage.outputs import ANYTHING, STATE, OutputFile, OutputKind

if TYPE_CHECKING:
    from textgen.generation.session import Session

CONTINUING = """\
Type a line and the model writes the next one; with an empty line it continues by itself.
End your line with \\ to let it continue the same line; // begins a line with a slash.
"""
COMPLETING = """\
Type a prompt and the model completes it; with an empty line it continues.
// begins a line with a slash.
"""
HELP = """\

  /again             replace the last draft by another one
  /alternatives N    N drafts to choose from: type the number of one
  /undo              undo the last turn
  /keep              keep the text so far: /undo and /again stop here
  /temperature X     sample more freely (1) or more predictably (0.5)
  /show              print the text so far
  /write FILE        write the text so far to a file
  /save FILE         save the state of the model, not the text: textgen sample -i --load-state FILE continues
  /quit              leave (or Ctrl-D); Ctrl-C stops the text being generated"""
MOST_ALTERNATIVES = 100
TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst")
OutputFiles = Callable[[str, str, OutputKind, bool], OutputFile]


@dataclass(frozen=True)
class Turn:
    """One turn: the session before it, what the person wrote, the session after that, what the model wrote, and the
    session at the end."""

    before: Session
    read: str
    begin: Session
    text: str
    after: Session


class CoWriting:
    """A text and the turns in which it was written. `command` returns False to leave.

    `text` is the text so far. `output_file` checks a file that a command names, by its kind and whether it may be
    replaced regardless of its content.
    """

    def __init__(
        self, session: Session, options: SampleOptions, output: Output, text: str, output_file: OutputFiles
    ) -> None:
        self.options = options
        self._start, self._output, self._start_text, self._output_file = session, output, text, output_file
        self._written_files: dict[Path, bytes] = {}
        self._turns: list[Turn] = []
        self._drafts: list[Turn] = []
        self._forks = 0
        self._completing = bool(session.model.prompt_end)

    @property
    def session(self) -> Session:
        """The session after the last turn."""
        return self._turns[-1].after if self._turns else self._start

    @property
    def text(self) -> str:
        """The text so far, from the prompt on."""
        return self._start_text + "".join(turn.read + turn.text for turn in self._turns)

    def command(self, line: str) -> bool:
        """Carry out a line of input. Raises TextgenError if that is impossible."""
        drafts, self._drafts = self._drafts, []
        if drafts and line.strip().isdecimal():
            self._choose(drafts, line.strip())
        elif line.startswith("/") and not line.startswith("//"):
            name, _, argument = line[1:].strip().partition(" ")
            return self._order(name, argument.strip())
        else:
            self._take_turn(line[1:] if line.startswith("//") else line)
        return True

    def _order(self, name: str, argument: str) -> bool:
        orders = {
            "again": self._again,
            "alternatives": self._alternatives,
            "undo": self._undo,
            "keep": self._keep,
            "temperature": self._temperature,
            "show": self._show,
            "write": self._write,
            "save": self._save,
        }
        if name == "quit":
            return False
        if name == "help":
            say((COMPLETING if self._completing else CONTINUING) + HELP)
        elif name not in orders:
            close = did_you_mean(name, [*orders, "quit", "help"])
            raise UsageError(f"there is no command '/{name}'.{close}", hint="/help lists them all.")
        else:
            orders[name](argument)
        return True

    def _take_turn(self, line: str) -> None:
        from textgen.generation.generate import heals

        before = self.session
        if self._completing:
            read, begin = line + "\n" if line else "", before.ask(line) if line else before
        else:
            read = line[:-1] if line.endswith("\\") else line + "\n" if line else ""
            begin = before.read(read, heals(self.options))
        self._turns.append(self._written(before, read, begin))

    def _written(self, before: Session, read: str, begin: Session) -> Turn:
        """Generate and show the model's part of a turn: up to a line end, or a whole completion."""
        from textgen.generation.generate import Completion

        completion = Completion("", begin.seed)
        session = begin
        try:
            for piece, session in begin.pieces(self.options, completion):  # noqa: B007 - after Ctrl-C too
                self._output.write(piece)
                if "\n" in piece and completion.text.strip() and not self._completing:
                    break
        except KeyboardInterrupt:
            say()
        if not completion.text.endswith("\n") and (self._output.terminal or completion.text):
            self._output.write("\n")
        text = completion.text + "\n" if self._completing else completion.text
        return Turn(before, read, begin, text, session)

    def _again(self, argument: str) -> None:
        last = self._last()
        self._turns[-1] = self._written(last.before, last.read, self._fork(last.begin))

    def _alternatives(self, argument: str) -> None:
        if not argument.isdecimal() or not 1 <= int(argument[:9]) <= MOST_ALTERNATIVES:
            raise UsageError(f"/alternatives takes a whole number from 1 to {MOST_ALTERNATIVES}, not {argument!r}.")
        last = self._turns[-1] if self._turns else Turn(self._start, "", self._start, "", self._start)
        for number in range(1, int(argument) + 1):
            self._output.write(f"{number}: ")
            self._drafts.append(self._written(last.before, last.read, self._fork(last.begin)))
        say(f"Type a number from 1 to {argument} to choose, or just continue.")

    def _choose(self, drafts: list[Turn], number: str) -> None:
        if not 1 <= int(number[:9]) <= len(drafts):
            self._drafts = drafts
            raise UsageError(f"there are {plural(len(drafts), 'draft')}, and no number {number}.")
        self._turns[-1:] = [drafts[int(number) - 1]]

    def _undo(self, argument: str) -> None:
        self._last()
        self._turns.pop()
        say(f"undone; {plural(len(self._turns), 'turn')} left.")

    def _keep(self, argument: str) -> None:
        self._start, self._start_text, self._turns = self.session, self.text, []
        say("kept.")

    def _temperature(self, argument: str) -> None:
        try:
            value: Any = float(argument)
        except ValueError:
            value = argument
        changed = replace(self.options, temperature=value, greedy=False)
        check(changed)
        check_sampling(changed)
        self.options = changed

    def _save(self, argument: str) -> None:
        if not argument:
            raise UsageError("/save needs the name of a file.")
        if Path(argument).suffix.lower() in TEXT_SUFFIXES:
            raise UsageError(
                f"/save saves the state of the model, and {argument!r} looks like a text.",
                hint=f"/write {argument} writes the text, /save {Path(argument).with_suffix('.state')} the state.",
            )
        self._output_file(argument, "/save", STATE, False).write(self.session.to_bytes())
        say(f"saved the state: {argument}")

    def _write(self, argument: str) -> None:
        if not argument:
            raise UsageError("/write needs the name of a file.")
        path = Path(argument).resolve()
        is_own = path in self._written_files and path.is_file() and path.read_bytes() == self._written_files[path]
        content = encoded(_ended(self.text))
        self._output_file(argument, "/write", ANYTHING, is_own).write(content)
        self._written_files[path] = content
        say(f"wrote {plural(len(self.text), 'character')}: {argument}")

    def _show(self, argument: str) -> None:
        self._output.write(_ended(self.text))

    def _last(self) -> Turn:
        if not self._turns:
            raise UsageError("there is no turn to undo.")
        return self._turns[-1]

    def _fork(self, session: Session) -> Session:
        self._forks += 1
        return session.fork((self._start.seed + self._forks) % 2**63)


def _ended(text: str) -> str:
    """The text with a line end, unless it is empty."""
    return text if text.endswith("\n") or not text else text + "\n"


def cowrite(
    session: Session,
    prompt: str,
    options: SampleOptions,
    save_state: OutputFile | None,
    output_file: OutputFiles,
    raw: bool = False,
) -> None:
    """Read lines from standard input and write in turn, until the input ends; then save the state, if requested."""
    output = Output(raw)
    completing = bool(session.model.prompt_end) and bool(prompt)
    writing = CoWriting(session, options, output, prompt + "\n" if completing else prompt, output_file)
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if terminal:
        say("Co-writing: type /help for commands.")
        output.write(prompt + "\n" if prompt else "")
    first = True
    try:
        while (line := _line(terminal)) is not None:
            line, first = line.removeprefix("\ufeff") if first else line, False
            try:
                if not writing.command(line):
                    break
            except BrokenPipeError:
                raise
            except (TextgenError, OSError) as error:
                warn(str(error))
                if hint := getattr(error, "hint", None):
                    say(f"Hint: {hint}")
    finally:
        if save_state is not None:
            save_state.write(writing.session.to_bytes())


def _line(terminal: bool) -> str | None:
    """The next line without its line end; None at the end of input."""
    if sys.stdin is None:
        return None
    while True:
        try:
            if terminal:
                sys.stderr.write("> ")
                sys.stderr.flush()
            line = sys.stdin.readline()
        except KeyboardInterrupt:  # at the prompt there is nothing to interrupt
            say(" (Ctrl-D or /quit leaves.)")
            continue
        except UnicodeDecodeError:
            warn("this line is not UTF-8 text.")
            continue
        return line.rstrip("\r\n") if line else None
