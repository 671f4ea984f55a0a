"""Where the book stands in public, and what a link to one of its pages shows elsewhere.

The address of the repository is one setting, ``repository: url`` in ``_config.yml``. With it every
page links to its source, a notebook can be launched on Colab, and previews of links have absolute
addresses; without it none of these is there.
"""

import html
import re
from typing import Any

from docutils import nodes

PICTURE = "_static/preview.png"
_GITHUB = re.compile(r"https://github\.com/([^/]+)/([^/]+)")
_LONGEST = 200  # what search engines and chats show of a description


def configure(_app: Any, config: Any) -> None:
    """Switch on what needs the repository's address; on GitHub the site is that of its Pages."""
    options = config.html_theme_options
    url = options.get("repository_url", "").rstrip("/").removesuffix(".git")
    if not url:
        return
    options.update(repository_url=url, use_repository_button=True, use_edit_page_button=True)
    if on_github := _GITHUB.fullmatch(url):
        owner, name = on_github.groups()
        options["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
        config.html_baseurl = config.html_baseurl or f"https://{owner}.github.io/{name}/"


def add_tags(app: Any, page: str, _template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give a page its description, and the Open Graph tags that previews of links are made of."""
    home = app.config.html_baseurl and app.config.html_baseurl.rstrip("/") + "/"
    title = html.unescape(re.sub("<[^>]+>", "", context.get("title", "")))
    given = context.get("metatags", "")
    own = re.search(r'<meta name="description" content="([^"]*)">', given)
    description = html.unescape(own[1]) if own else describe(doctree)
    description = description or app.config.nbrepro_description
    tags = {
        "description": description,
        "og:title": title or app.config.html_title,
        "og:description": description,
        "og:site_name": app.config.html_title,
        "og:type": "website" if page == app.config.root_doc else "article",
    }
    if home:
        tags |= {
            "og:url": home + app.builder.get_target_uri(page),
            "og:image": home + PICTURE,
            "twitter:card": "summary_large_image",
        }
    context["metatags"] = (given.replace(own[0], "") if own else given) + "".join(
        f'<meta {"property" if name.startswith("og:") else "name"}="{name}" '
        f'content="{html.escape(text)}">\n'
        for name, text in tags.items()
    )


def describe(doctree: nodes.document | None) -> str:
    """The beginning of a page's first paragraph, as whole sentences where that is possible."""
    if doctree is None:
        return ""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section):
            return shorten(" ".join(paragraph.astext().split()))
    return ""


def shorten(text: str, longest: int = _LONGEST) -> str:
    """``text`` up to a length: whole sentences if they fill half of it, else whole words."""
    if len(text) <= longest:
        return text
    sentences = re.match(rf".{{{longest // 2},{longest - 1}}}[.!?](?= )", text)
    return sentences[0] if sentences else text[:longest].rpartition(" ")[0].rstrip(",;:") + " …"
