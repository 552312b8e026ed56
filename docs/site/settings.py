"""Has Griffe, which reads the code for mkdocstrings, take settings for dataclasses."""

import griffe


class Settings(griffe.Extension):
    def on_class_instance(self, *, cls, **_):
        for decorator in cls.decorators:
            if decorator.callable_path.endswith("fields.config"):
                decorator.value = griffe.ExprName("dataclasses.dataclass")
