"""Files: written whole or not at all, one job at a time, read with a check of their form."""

from text_to_lora.files.outputs import MODELFILE, MODELFILE_START, check_output, check_results
from text_to_lora.files.reading import (
    MAX_JSON_BYTES,
    JsonError,
    check_format,
    content_hash,
    file_hash,
    parse_json,
    read_bytes,
    read_finished,
    read_json,
    read_json_lines,
    read_task_json,
)
from text_to_lora.files.whole import (
    lock,
    one_job,
    one_job_a_folder,
    write_file,
    write_folder,
    write_json,
    write_text,
)

__all__ = [
    "MAX_JSON_BYTES",
    "MODELFILE",
    "MODELFILE_START",
    "JsonError",
    "check_format",
    "check_output",
    "check_results",
    "content_hash",
    "file_hash",
    "lock",
    "one_job",
    "one_job_a_folder",
    "parse_json",
    "read_bytes",
    "read_finished",
    "read_json",
    "read_json_lines",
    "read_task_json",
    "write_file",
    "write_folder",
    "write_json",
    "write_text",
]
