"""What a program shows in a terminal, as a page of HTML. tmux is the terminal."""

import html
import re
import subprocess
import time

# The sixteen colours that programs name, light on dark.
COLOURS = ["#000000", "#e05561", "#8cc265", "#d8a657", "#4aa5f0", "#c162de", "#42b3c2", "#d7dae0",
           "#6b7280", "#ff616e", "#a5e075", "#f0a45d", "#4dc4ff", "#de73ff", "#4cd1e0", "#ffffff"]
PAGE = """<!doctype html><meta charset="utf-8"><style>body { margin: 0; background: #16181d }
pre { margin: 8px 12px; font: 14px/16px "DejaVu Sans Mono", monospace; color: #d7dae0 }</style><pre>%s</pre>"""


def page(command, columns, lines, seconds):
    """The page of a program's screen after some seconds. The program is ended."""
    tmux = ["tmux", "-L", "pictures"]
    size = ["-x", str(columns), "-y", str(lines)]
    subprocess.run([*tmux, "new-session", "-d", "-s", "shown", *size, *map(str, command)], check=True)
    try:
        time.sleep(seconds)
        capture = [*tmux, "capture-pane", "-e", "-p", "-t", "shown"]
        shown = subprocess.run(capture, check=True, stdout=subprocess.PIPE, text=True).stdout
    finally:
        subprocess.run([*tmux, "kill-session", "-t", "shown"], check=False, stderr=subprocess.DEVNULL)
    return PAGE % html_of(shown)


def html_of(text):
    """A text with escapes for colours (ECMA-48's SGR) as HTML."""
    style, made = {}, []
    # Every second piece is the numbers of an escape.
    for n, piece in enumerate(re.split("\x1b\\[([0-9;]*)m", text)):
        if n % 2:
            change(style, [int(number or 0) for number in piece.split(";")])
        elif piece:
            made.append(f'<span style="{css(style)}">{html.escape(piece)}</span>')
    return "".join(made)


def change(style, numbers):
    """Changes a style as the numbers of one escape say; those that no program of this crate writes are left out."""
    while numbers:
        number = numbers.pop(0)
        if number == 0:
            style.clear()
        elif number in (1, 2, 7):
            style[{1: "bold", 2: "dim", 7: "reversed"}[number]] = True
        elif number in (38, 48) and numbers[:1] == [5]:
            style["colour" if number == 38 else "background"] = COLOURS[numbers[1] % 16]
            del numbers[:2]
        elif number in (39, 49):
            style.pop("colour" if number == 39 else "background", None)
        elif 30 <= number <= 37 or 40 <= number <= 47:
            style["colour" if number < 40 else "background"] = COLOURS[number % 10]


def css(style):
    colour, background = style.get("colour", "#d7dae0"), style.get("background", "transparent")
    if style.get("reversed"):
        colour, background = style.get("background", "#16181d"), colour
    weight, opacity = ("bold" if style.get("bold") else "normal"), (0.6 if style.get("dim") else 1)
    return f"color: {colour}; background: {background}; font-weight: {weight}; opacity: {opacity}"
