"""Text in a picture: which characters can be shown, and how wide they are."""

from functools import cached_property
from typing import Any

# Fonts that may hold what DejaVu lacks; those that are not installed are left out.
_MORE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "PingFang SC",
    "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "WenQuanYi Zen Hei", "Arial Unicode MS", "Noto Sans",
    "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji",
)  # fmt: skip


class Fonts:
    """The fonts that are installed: what they can show, and how wide it is."""

    @cached_property
    def families(self) -> list[str]:
        """DejaVu Sans, which comes with matplotlib, and the installed ones among _MORE_FONTS."""
        from matplotlib.font_manager import fontManager

        installed = {font.name for font in fontManager.ttflist}
        return ["DejaVu Sans", *(name for name in _MORE_FONTS if name in installed)]

    @cached_property
    def _faces(self) -> list[Any]:
        from matplotlib.font_manager import findfont, get_font

        return [get_font(findfont(self.properties(10.0, family=[name]))) for name in self.families]

    @cached_property
    def _renderer(self) -> Any:
        from matplotlib.backends.backend_agg import RendererAgg

        # At a high resolution the hinting of the glyphs does not change their width.
        return RendererAgg(1, 1, 1440)

    def properties(self, size: float, *, bold: bool = False, family: list[str] | None = None) -> Any:
        """The font of this size in points."""
        from matplotlib.font_manager import FontProperties

        return FontProperties(family=family or self.families, size=size, weight="bold" if bold else "normal")

    def has(self, character: str) -> bool:
        """Whether a font can show this character."""
        return any(face.get_char_index(ord(character)) for face in self._faces)

    def width(self, text: str, size: float, *, bold: bool = False) -> float:
        """The width of a text in inches."""
        properties = self.properties(size, bold=bold)
        return self._renderer.get_text_width_height_descent(text, properties, ismath=False)[0] / 1440

    def visible(self, token: str) -> str:
        """The token with white space at its ends and control characters made visible."""
        body = token.strip(" ")
        before = len(token) - len(token.lstrip(" "))
        after = len(token) - len(body) - before if body else 0
        shown = "␣" * before + body + "␣" * after
        for plain, mark in {"\r\n": "↵", "\n": "↵", "\r": "↵", "\t": "→"}.items():
            shown = shown.replace(plain, mark)
        return "".join(c if c == " " or (c.isprintable() and self.has(c)) else "□" for c in shown)

    def fitted(self, text: str, size: float, room: float, *, bold: bool = False, keep_end: bool = False) -> str:
        """The text, shortened with an ellipsis where it is wider than `room` inches."""
        if len(text) > 400:
            text = "…" + text[-399:] if keep_end else text[:399] + "…"
        if self.width(text, size, bold=bold) <= room:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            short = "…" + text[-middle:] if keep_end else text[:middle] + "…"
            low, high = (middle, high) if self.width(short, size, bold=bold) <= room else (low, middle - 1)
        return ("…" + text[len(text) - low :]) if keep_end else text[:low] + "…"
