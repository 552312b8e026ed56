"""Takes README.md and what else the pages link to onto the site.

On the site everything stands as if docs/ were the root of the checkout; links are
rewritten to that, so that the same pages can be read in the checkout.
"""

import os
import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# The target of a link to a file, and its anchor.
LINK = re.compile(r"(?<=\]\()(?P<file>[^)#:\s]+)(?=[)#])")


def on_files(files, config):
    for name, address in PAGES.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / name)))
    for page in list(files.documentation_pages()):
        source = pathlib.Path(page.abs_src_path)
        for match in LINK.finditer(source.read_text()):
            target = _target(source, match)
            if files.get_file_from_path(_address(target)) is None:
                files.append(
                    File.generated(config, _address(target), abs_src_path=str(target))
                )
    return files


def on_page_markdown(markdown, page, config, files):
    path = page.file.abs_src_path
    if path is None:  # a page of the reference
        return markdown
    source, folder = pathlib.Path(path), posixpath.dirname(page.file.src_uri)

    def rewrite(match):
        return posixpath.relpath(_address(_target(source, match)), folder or ".")

    return LINK.sub(rewrite, markdown)


def _target(source, match):
    """The file of the checkout that a link of the page `source` leads to."""
    return pathlib.Path(os.path.normpath(source.parent / match["file"]))


def _address(path):
    """Where a file of the checkout stands on the site."""
    name = path.relative_to(ROOT).as_posix()
    return PAGES.get(name, name.removeprefix("docs/"))
