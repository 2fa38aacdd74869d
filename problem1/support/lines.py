"""Lines of input answered as they arrive, in bounded memory."""

LONGEST_CHARACTER = 4  # bytes, in UTF-8
CHUNK = 1 << 16  # bytes read at once
BYTE_ORDER_MARK = "\ufeff"


def read_lines(stream, longest):
    """Yield lists of the lines that have arrived; wait only while there is none.

    Args:
        stream: a buffered binary stream, such as `sys.stdin.buffer`.
        longest: the most characters of a line; a longer one is skipped and yielded as None.

    Yields:
        Lists of text without line ends. Bytes that are no UTF-8 are replaced.
    """
    rest, skipping, first = b"", False, True
    while chunk := stream.read1(CHUNK):
        *ended, rest = (rest + chunk).split(b"\n")
        lines = [_decode(line, longest) for line in ended]
        if lines:
            if skipping:
                lines[0], skipping = None, False
            if first:
                lines[0], first = lines[0] and lines[0].removeprefix(BYTE_ORDER_MARK), False
            yield lines
        if len(rest) > LONGEST_CHARACTER * (longest + 2):  # room for a mark and a carriage return
            rest, skipping = b"", True
    if rest or skipping:
        line = None if skipping else _decode(rest, longest)
        yield [line.removeprefix(BYTE_ORDER_MARK) if first and line else line]


def _decode(line, longest):
    text = line.decode("utf-8", errors="replace").removesuffix("\r")
    return None if len(text.removeprefix(BYTE_ORDER_MARK)) > longest else text


def answer_lines(stream, output, longest, at_once, answer):
    """Write one line for each line of `stream`: an answer, or `error: ` and what is wrong.

    Args:
        stream, longest: as for `read_lines`.
        output: the text stream to write to, flushed after every `at_once` lines and whenever no
            more input is waiting.
        answer: a function from a list of lines to a list of answers or ValueErrors.

    Returns:
        Whether no line was an error.
    """
    all_good = True
    for lines in read_lines(stream, longest):
        for start in range(0, len(lines), at_once):
            batch = lines[start : start + at_once]
            answers = iter(answer([line for line in batch if line is not None]))
            too_long = ValueError(f"a line of more than {longest:,} characters")
            results = [too_long if line is None else next(answers) for line in batch]
            for result in results:
                wrong = isinstance(result, ValueError)
                all_good = all_good and not wrong
                output.write(f"error: {result}\n" if wrong else f"{result}\n")
            output.flush()
    return all_good
