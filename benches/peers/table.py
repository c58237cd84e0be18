"""What was measured, as text to read and as data to draw."""
import json, statistics

MIB = 1 << 20


def spread(values, scale, unit):
    """The median, and between what bounds the samples lay."""
    values = [value * scale for value in values]
    if len(values) == 1:
        return f"{values[0]:.4g} {unit}"
    return f"{statistics.median(values):.4g} {unit} ({min(values):.3g}–{max(values):.3g})"


def row_line(row):
    """One way's figures: those that its samples have."""
    def have(what):
        return [sample[what] for sample in row["samples"] if what in sample]

    parts = [f"    {row['way']:<44}"]
    if have("seconds"):
        parts.append(f"{spread(have('seconds'), 1000, 'ms'):<32}")
    if have("half_visible"):
        late = sorted(have("seconds"))
        if len(late) >= 20:
            parts.append(f"p99 {late[-(-len(late) * 99 // 100) - 1] * 1000:.4g} ms,")
        parts.append(f"half visible {spread(have('half_visible'), 1000, 'ms')}")
    if have("sent"):
        parts.append(f"sent {statistics.median(have('sent')) / 1e6:.3f} MB, received {statistics.median(have('received')) / 1e6:.3f} MB")
    if have("master_cpu"):
        parts.append(f"cpu {statistics.median(have('master_cpu')):.2f} + {statistics.median(have('target_cpu')):.2f} s")
    if have("master_memory"):
        parts.append(f"{max(have('master_memory')) / MIB:.1f} MiB here, {max(have('target_memory')) / MIB:.1f} MiB there")
    return "  ".join(parts).rstrip()


def demand_line(demand):
    verdict = {None: "not judged", True: "met", False: "MISSED"}[demand["met"]]
    bound = "at least" if demand["at_least"] else "at most"
    return f"    {demand['text']:<60} {demand['figure']:>9.3f}  {bound} {demand['limit']:g}  {verdict}"


def job_lines(job):
    """The table of one job."""
    lines = [f"{job['title']}  ({job['when']}, {job['rounds']} rounds, receiver {job['receiver']})"]
    shown = None
    for row in job["rows"]:
        heading = f"  {row['road']}: " + ", ".join(f"{value} {what}" for what, value in row["case"].items())
        if heading != shown:
            lines.append(heading)
            shown = heading
        lines.append(row_line(row))
    for road in dict.fromkeys(demand["road"] for demand in job["demands"]):
        lines.append(f"  demands, {road}")
        lines += [demand_line(demand) for demand in job["demands"] if demand["road"] == road]
    return lines


def read(path):
    """The book of earlier runs: job -> what it measured."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path, book):
    """The book as data, and beside it as text."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".txt").write_text("".join("\n".join(job_lines(job)) + "\n\n" for job in book.values()))
