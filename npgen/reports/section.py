"""A part of the page, and how its figures are gathered."""
import dataclasses

from .markup import Markup, join, tag


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: its title, its name in links, what it shows, and the facts of which it shows the figures."""

    title: str
    name: str
    body: Markup
    facts: dict = dataclasses.field(default_factory=dict)

    @property
    def html(self):
        return tag("section", tag("h2", self.title), self.body, id=self.name)


def note(*parts):
    """A sentence that says what is shown."""
    return tag("p", join(*parts), class_="note")
