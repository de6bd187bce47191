"""What a knob is turned with: a slider, a field that its value is typed into, a way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from workbench.pages import shown
from workbench.settings import Settings

_FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
# Those for which nothing has to be made anew, so that the painting follows while they are dragged.
_FOLLOWED = ("weight", "weights")
_WITH_SLIDER = "104px minmax(60px, 1fr) 76px 30px"
_WITHOUT = "140px minmax(60px, 1fr) 30px"

# What ipywidgets leaves out: names of fields, sliders and pictures for those who cannot see them,
# and a slider's value instead of the number of its stop. To be shown once in a panel, which comes
# into view with it, as "Run All Cells" leaves it below the window.
NAMES = """<img hidden alt="" src="data:," onerror="
const set = (element, name, value) =>
    element && value && element.getAttribute(name) !== value && element.setAttribute(name, value);
const names = () => {
    document.querySelectorAll('.widget-inline-hbox > label[title]').forEach(label => {
        const [widget, title] = [label.parentElement, label.title];
        if (title === 'null') return;
        set(widget, 'title', title);
        widget.querySelectorAll('input, .noUi-handle').forEach(
            each => set(each, 'aria-label', title)
        );
        const value = widget.querySelector('.widget-readout')?.textContent;
        set(widget.querySelector('.noUi-handle'), 'aria-valuetext', value);
    });
    document.querySelectorAll('img.widget-image').forEach(image => set(
        image, 'alt', [...image.classList].find(name => /^is-/.test(name))?.slice(3)
    ));
};
setTimeout(() => this.closest('.jp-OutputArea-output')?.scrollIntoView({block: 'start'}), 500);
new MutationObserver(names).observe(document.body, {subtree: true, childList: true});
names();
">"""


@dataclass(frozen=True, eq=False)
class Knob:
    """The widgets of a knob, or of an item of one that is a tuple."""

    name: str
    title: str
    begin: Any  # the value that `reset` leads back to
    slider: widgets.SelectionSlider | None  # None: it has no stops
    field: widgets.ValueWidget  # what its value is typed into, or chosen in
    reset: widgets.Button

    @classmethod
    def of(cls, name: str, begin: Any, title: str = "") -> Knob:
        """Make the widgets of a knob as it is declared, at a value to begin with."""
        title = title or words(name)
        tip = f"{title}: {_FIELDS[name].metadata['text']}"
        back = button("\u21ba", f"{title}: back to {label(begin)}", width="28px", padding="0")
        knob = cls(name, title, begin, _slider(name, tip), _field(name, begin, tip), back)
        knob.show(begin)
        return knob

    @property
    def row(self) -> list[widgets.Widget]:
        """What stands beside each other: the name, the slider, the field, the way back."""
        tip = self.field.tooltip
        name = widgets.Label(self.title, tooltip=tip, layout={"min_width": "0"})
        return [name, *filter(None, [self.slider]), self.field, self.reset]

    def show(self, value: Any) -> None:
        """Set all to a value, which becomes a stop if it is none yet."""
        self.field.value = value
        self.reset.disabled = bool(value == self.begin)
        if self.slider is None:
            return
        if value not in (stop for _, stop in self.slider.options):
            self.slider.options = _options({*_FIELDS[self.name].metadata["stops"], value})
        self.slider.value = value

    def watch(self, turned: Callable[[Any], None]) -> None:
        """Have `turned` called with every value that is set."""
        for widget in filter(None, (self.slider, self.field)):
            widget.observe(lambda change: turned(self._typed(change["new"])), "value")
        self.reset.on_click(lambda _: turned(self.begin))

    def _typed(self, value: Any) -> Any:
        """A number as the knob has it."""
        whole = "int" in _FIELDS[self.name].type and float(value).is_integer()
        return int(value) if whole else value


def grid(knobs: Sequence[Knob]) -> widgets.GridBox:
    """Knobs below each other, all with a slider or all without."""
    columns = _WITH_SLIDER if knobs[0].slider else _WITHOUT
    layout = {"grid_template_columns": columns, "align_items": "center"}
    return widgets.GridBox([part for knob in knobs for part in knob.row], layout=layout)


def words(name: str) -> str:
    """How a knob is called."""
    return name.replace("_", " ")


def label(value: Any) -> str:
    """A value of a knob as it is shown."""
    if isinstance(value, bool | str):
        return str(value)
    return "off" if value == 0 else f"{value:.6g}"


def _slider(name: str, tip: str) -> widgets.SelectionSlider | None:
    """A slider with exact stops."""
    stops = _FIELDS[name].metadata["stops"]
    if not stops:
        return None
    return widgets.SelectionSlider(
        options=_options(stops),
        tooltip=tip,
        continuous_update=name.endswith(_FOLLOWED),
        readout=False,
        layout={"width": "auto", "min_width": "0"},
    )


def _options(stops: Any) -> list[tuple[str, Any]]:
    return [(label(stop), stop) for stop in sorted(stops)]


def _field(name: str, begin: Any, tip: str) -> widgets.ValueWidget:
    """What a value is typed into, or chosen in, by what values there are."""
    among = _FIELDS[name].metadata["among"]
    options = {"tooltip": tip, "layout": {"width": "auto", "min_width": "0"}}
    if among:
        return widgets.Dropdown(options=[*among], **options)
    if isinstance(begin, bool):
        return widgets.Checkbox(indent=False, **options)
    if isinstance(begin, str):  # `init`
        names = ["content", "random"]
        return widgets.Combobox(options=names, continuous_update=False, **options)
    return widgets.FloatText(**options)


def told(changes: Mapping[str, Any]) -> str:
    """Settings with their values, as in "style weight 300, seed 2"."""
    return ", ".join(f"{words(name)} {shown(value) or 'none'}" for name, value in changes.items())


def button(
    text: str,
    tip: str,
    act: Callable[[], object] | None = None,
    *,
    icon: str = "",
    **layout: str,
) -> widgets.Button:
    """A button, as wide as its text, and what it does."""
    layout = {"width": "auto", **layout}
    made = widgets.Button(description=text, tooltip=tip, icon=icon, layout=layout)
    if act:
        made.on_click(lambda _: act())
    return made


def row(*children: widgets.Widget, **layout: str) -> widgets.HBox:
    """Widgets beside each other, and below where there is no room."""
    flow = {"flex_flow": "row wrap", "align_items": "center"}
    return widgets.HBox(children, layout={**flow, **layout})


def choice(tip: str, options: Sequence[Any], value: Any) -> widgets.Dropdown:
    """One of some options, with what is chosen first."""
    layout = {"width": "auto", "flex": "1 1 auto", "min_width": "0"}
    return widgets.Dropdown(options=options, value=value, tooltip=tip, layout=layout)


def image(what: str, kind: str = "jpeg", **layout: str) -> widgets.Image:
    """A place for a picture, and in one word what it shows."""
    picture = widgets.Image(format=kind, layout=layout)
    return picture.add_class(f"is-{what}")


def checkbox(tip: str, text: str = "", *, ticked: bool = False) -> widgets.Checkbox:
    """A small box, with or without words."""
    layout = {"width": "auto" if text else "30px"}
    options = {"value": ticked, "description": text, "tooltip": tip}
    return widgets.Checkbox(indent=False, layout=layout, **options)


def toggle(text: str, tip: str, icon: str) -> widgets.ToggleButton:
    """A button that stays down."""
    return widgets.ToggleButton(description=text, tooltip=tip, icon=icon, layout={"width": "auto"})


def section(title: str, inside: widgets.Widget) -> list[widgets.Widget]:
    """A button that shows and hides what is below it."""
    head = toggle(title, f"{title}: show or hide", "caret-right")
    inside.layout.display = "none"

    def show(change: dict[str, bool]) -> None:
        inside.layout.display = None if change["new"] else "none"
        head.icon = "caret-down" if change["new"] else "caret-right"

    head.observe(show, "value")
    return [head, inside]


def pressed(toggles: dict[str, widgets.Checkbox]) -> tuple[str, ...]:
    """Names of the boxes that are ticked."""
    return tuple(layer for layer, toggle in toggles.items() if toggle.value)
