"""Reports: trained prompts as one page that needs nothing beside itself, for a person who has to be convinced."""

from ._page import report as report
