"""Files: written whole or not at all, one job at a time, read with a check of their form."""

from text_to_lora.files.outputs import MODELFILE as MODELFILE
from text_to_lora.files.outputs import MODELFILE_START as MODELFILE_START
from text_to_lora.files.outputs import check_output as check_output
from text_to_lora.files.outputs import check_results as check_results
from text_to_lora.files.reading import MAX_JSON_BYTES as MAX_JSON_BYTES
from text_to_lora.files.reading import JsonError as JsonError
from text_to_lora.files.reading import check_format as check_format
from text_to_lora.files.reading import check_no_adapter as check_no_adapter
from text_to_lora.files.reading import content_hash as content_hash
from text_to_lora.files.reading import file_hash as file_hash
from text_to_lora.files.reading import parse_json as parse_json
from text_to_lora.files.reading import read_bytes as read_bytes
from text_to_lora.files.reading import read_finished as read_finished
from text_to_lora.files.reading import read_json as read_json
from text_to_lora.files.reading import read_json_lines as read_json_lines
from text_to_lora.files.reading import read_task_json as read_task_json
from text_to_lora.files.whole import lock as lock
from text_to_lora.files.whole import one_job as one_job
from text_to_lora.files.whole import one_job_a_folder as one_job_a_folder
from text_to_lora.files.whole import write_file as write_file
from text_to_lora.files.whole import write_folder as write_folder
from text_to_lora.files.whole import write_json as write_json
from text_to_lora.files.whole import write_text as write_text
