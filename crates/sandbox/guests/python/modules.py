"""The standard library that agents have. What is not imported when the interpreter is built does
not exist in it, and what is costs no time in a run: it is part of the memory image."""

import importlib
import pkgutil

# Whole packages, with everything in them that can be imported.
PACKAGES = """
asyncio collections compression concurrent email html http importlib json logging pathlib re
string tomllib unittest urllib xml zipfile
""".split()

MODULES = """
__future__ abc annotationlib argparse array ast atexit base64 bdb binascii bisect calendar cmath
cmd code codecs codeop colorsys configparser contextlib contextvars copy copyreg csv dataclasses
datetime dbm.dumb decimal difflib dis doctest encodings.ascii encodings.base64_codec encodings.charmap
encodings.cp1252 encodings.hex_codec encodings.idna encodings.iso8859_1 encodings.iso8859_15
encodings.latin_1 encodings.punycode encodings.raw_unicode_escape encodings.rot_13
encodings.unicode_escape encodings.utf_16 encodings.utf_16_be encodings.utf_16_le
encodings.utf_32 encodings.utf_8 encodings.utf_8_sig encodings.zlib_codec enum errno filecmp fileinput fnmatch fractions
functools gc genericpath getopt getpass gettext glob graphlib gzip hashlib heapq hmac inspect io
ipaddress itertools keyword linecache locale mailbox marshal math mimetypes netrc ntpath numbers
opcode operator optparse os pickle pickletools pkgutil platform plistlib posixpath pprint pstats
pyclbr pyexpat queue quopri random reprlib runpy sched secrets select selectors shelve shlex
shutil signal socket sqlite3 stat statistics stringprep struct subprocess symtable sys tarfile
tempfile textwrap threading time timeit token tokenize trace traceback tracemalloc types typing
unicodedata uuid warnings wave weakref zipimport zlib
""".split()

# Of the packages, what is for other systems or is missing from WASI.
PASSED_OVER = (
    "asyncio.tools",
    "asyncio.windows_events",
    "asyncio.windows_utils",
    "compression.bz2",
    "compression.lzma",
    "compression.zstd",
    "concurrent.futures.interpreter",
    "concurrent.interpreters",
)


def preload():
    """Imports all of it; what cannot be had is an error that names it all."""
    missing = []
    for name in [*MODULES, *PACKAGES, *(found for name in PACKAGES for found in _within(name))]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    if missing:
        raise ImportError(", ".join(missing))


def _within(name):
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(package, "__path__", ()), name + "."):
        if not found.name.endswith("__main__") and not found.name.startswith(PASSED_OVER):
            yield found.name
