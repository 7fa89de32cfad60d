"""JSON files: how they are written, what vouches for each byte of them, and how far a stranger's are believed.

A document is a JSON object in a file of its own, under its checksum. A record is a file of one JSON object a line,
which only grows; each line ends in its own checksum. Both are read with the same care: a regular file of a bounded
size, UTF-8, no name twice, no deeper than any of ours. Tables for other programs are lines of CSV, and what people read
elsewhere is Markdown.
"""

from ._csv import csv_lines as csv_lines
from ._csv import csv_table as csv_table
from ._entries import changed_files as changed_files
from ._entries import entry as entry
from ._entries import faults_in as faults_in
from ._entries import listed_in as listed_in
from ._entries import refuse_no_name as refuse_no_name
from ._entries import sha256_of as sha256_of
from ._json import compact as compact
from ._json import json_bytes as json_bytes
from ._json import without_nan as without_nan
from ._limits import Limits as Limits
from ._limits import limited as limited
from ._limits import limits as limits
from ._limits import now as now
from ._limits import raise_limits as raise_limits
from ._limits import refuse_more as refuse_more
from ._lines import is_sealed_line as is_sealed_line
from ._lines import line_bytes as line_bytes
from ._lines import line_places as line_places
from ._lines import line_values as line_values
from ._lines import whole_lines as whole_lines
from ._markdown import in_markdown as in_markdown
from ._paths import short_paths as short_paths
from ._read import RESTORE as RESTORE
from ._read import Repeated as Repeated
from ._read import once as once
from ._read import parsed as parsed
from ._read import plain_bytes as plain_bytes
from ._read import read_json as read_json
from ._seal import SEALED as SEALED
from ._seal import digest as digest
from ._seal import is_sealed as is_sealed
from ._seal import read_sealed as read_sealed
from ._seal import sealed_bytes as sealed_bytes
from ._shape import NOT_STORED as NOT_STORED
from ._shape import check_shape as check_shape
from ._shape import in_file as in_file
