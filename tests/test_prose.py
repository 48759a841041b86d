"""The prose is plain technical English: phrases that native engineers do not write are counted.

Documents, README, error messages and ``--help`` texts have none. In docstrings and comments each
phrase has a ceiling, which only falls.
"""

import ast
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
SCRIPTS = sorted((ROOT / "experiments").rglob("*.py"))
SOURCES = [*sorted((ROOT / "src").rglob("*.py")), *SCRIPTS]

# phrase: what to write instead
PHRASES = {
    r"\b(is|are|was|were|be) no [a-z]": "'is not a ...', 'must be a ...', 'has no ...'",
    r"\bone an? [a-z]": "'one per ...'",
    r"(?m)^\s+\*{,2}[a-z_]+: (Of|Their|Its|His)\b": "a noun phrase that says what the argument is",
    r"(?m)^\s+\*{,2}[a-z_]+: (With|For|To|By|At|In|From|On|As) [a-z]+\.$": "a noun phrase",
    r"\b(is|are|was|be|by|of|to|in|for|has|had|as) none\b": "name the thing",
    r"\bwhat\b(?! (is|are|was|were|does|do|did|can|should|to) \w+[^.]*\?)": "the noun",
    r"\bbesides?\b": "'in addition to', 'next to', 'except'",
    r"\b[Ww]hoever\b": "'if you ...'",
    r"\b(are|is|be) had\b": "'obtain', 'use', 'compute'",
    r"\b(anew|thereof|therein|whereof|of which the|and forth again|all of which|forthwith)\b": "-",
    r"\bas first argument\b": "'as the first argument'",
    r"\b[Oo]ne \w+ a (step|lane|row|batch|class|layer|leaf|branch|configuration)\b": "'per'",
    r"\bof (a|the) (function|run|program)'s own\b": "'its own'",
    r"\bthat is none\b": "'that is not one'",
    r"\b(must|need|can|may) not be none\b": "'is required'",
}
# how often docstrings and comments may still hold a phrase
CEILING = 5


def hits(text: str) -> list[str]:
    """The phrases found in a text, each with the line it stands in."""
    found = []
    for pattern, instead in PHRASES.items():
        for match in re.finditer(pattern, text):
            start = text.rfind("\n", 0, match.start()) + 1
            line = text[start : text.find("\n", match.end())].strip()
            found.append(f"{match.group(0).strip()!r} in {line!r}; write {instead}")
    return found


def prose(page: str) -> str:
    """A page of Markdown without its code."""
    return re.sub(r"`[^`\n]*`", "``", re.sub(r"```.*?```", "", page, flags=re.DOTALL))


def quoted(text: str) -> str:
    """A docstring without its examples, formulas and quoted names."""
    text = re.sub(r"(?m)^\s*(>>>|\.\.\.) .*(\n(?!\s*$).*)*", "", text)
    return re.sub(r"``[^`]*``|:math:`[^`]*`|\"[^\"\n]*\"", "``", text)


def docstrings(tree: ast.Module) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [
        quoted(node.body[0].value.value)
        for node in ast.walk(tree)
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False)
    ]


def comments(path: Path) -> list[str]:
    with tokenize.open(path) as file:
        tokens = tokenize.generate_tokens(file.readline)
        return [token.string for token in tokens if token.type == tokenize.COMMENT]


def messages(tree: ast.Module) -> list[str]:
    """The texts inside of ``raise`` statements, and of calls whose name says that they refuse."""
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for part in ast.walk(node.exc):
                if isinstance(part, ast.JoinedStr):
                    texts.append(
                        "".join(x.value for x in part.values if isinstance(x, ast.Constant))
                    )
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    texts.append(part.value)
    return texts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_plain_english(page):
    found = hits(prose(page.read_text()))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("room", sorted({path.relative_to(ROOT).parts[:3] for path in SOURCES}))
def test_error_messages_are_plain_english(room):
    for path in SOURCES:
        if path.relative_to(ROOT).parts[:3] == room:
            for text in messages(ast.parse(path.read_text())):
                assert not hits(text), f"{path}: {text!r}: {hits(text)}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_texts_are_plain_english(script):
    found = [x for text in docstrings(ast.parse(script.read_text())) for x in hits(text)]
    assert not found, "\n".join(found)


def test_docstrings_and_comments_improve():
    count = Counter()
    for path in SOURCES:
        for text in [*docstrings(ast.parse(path.read_text())), *comments(path)]:
            count[str(path.relative_to(ROOT))] += len(hits(text))
    total = sum(count.values())
    assert total <= CEILING, f"{total} phrases, most in {count.most_common(10)}"


def test_the_phrases_are_found():
    assert hits("a boolean is no number")
    assert hits("one a step")
    assert hits("    run: Of the program.")
    assert hits("what was given")
    assert not hits("whatever was given is not a number; one per step")
