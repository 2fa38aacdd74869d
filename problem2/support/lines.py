"""Lines of input answered as they arrive, in bounded memory."""

LONGEST_CHARACTER = 4  # bytes, in UTF-8
CHUNK = 1 << 16


def read_lines(stream, longest):
    """Lists of the lines that have arrived: reading waits only while there is none.

    Args:
        stream: a buffered binary stream, such as `sys.stdin.buffer`.
        longest: a line of more characters is passed over piecewise, and given as None.

    Yields:
        Lists of text without line ends, decoded as UTF-8; what cannot be decoded is replaced.
    """
    rest, passing_over, first = b"", False, True
    while chunk := stream.read1(CHUNK):
        *ended, rest = (rest + chunk).split(b"\n")
        lines = [_decode(line, longest) for line in ended]
        if lines:
            if passing_over:
                lines[0], passing_over = None, False
            if first:
                lines[0], first = lines[0] and lines[0].removeprefix("\ufeff"), False
            yield lines
        if len(rest) > LONGEST_CHARACTER * (longest + 2):  # room for a byte order mark and a carriage return
            rest, passing_over = b"", True
    if rest or passing_over:
        line = None if passing_over else _decode(rest, longest)
        yield [line.removeprefix("\ufeff") if first and line else line]


def _decode(line, longest):
    text = line.decode("utf-8", errors="replace").removesuffix("\r")
    return None if len(text.removeprefix("\ufeff")) > longest else text


def answer_lines(stream, output, longest, at_once, answer):
    """Write one line for each line of `stream`: an answer, or `error: ` and what is wrong.

    Args:
        stream, longest: as for `read_lines`.
        output: the text stream to write to; flushed whenever no more input is waiting, and after every `at_once` lines.
        at_once: the most lines to answer together.
        answer: a function of a list of lines, which returns for each line its answer or a ValueError.

    Returns:
        Whether no line was an error.
    """
    all_good = True
    for lines in read_lines(stream, longest):
        for start in range(0, len(lines), at_once):
            batch = lines[start:start + at_once]
            answers = iter(answer([line for line in batch if line is not None]))
            results = [ValueError(f"a line of more than {longest:,} characters") if line is None else next(answers)
                       for line in batch]
            output.writelines(f"error: {result}\n" if isinstance(result, ValueError) else f"{result}\n"
                              for result in results)
            output.flush()
            all_good = all_good and not any(isinstance(result, ValueError) for result in results)
    return all_good
