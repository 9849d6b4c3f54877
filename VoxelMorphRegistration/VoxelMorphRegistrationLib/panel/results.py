"""The answer of a registration in one line, and the section 'Results': warnings, numbers, and the report as a file."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import OutputError, VoxelMorphError
from ..mrml.records import report_of
from ..mrml.table import write_results
from ..results.html import html_report, write_html_report
from ..results.table import Row, rows
from ..results.verdict import BAD, LOOK, verdict
from .colours import FORMER, box, head, is_dark
from .measures import group_title, in_words, row_note, row_title, verdict_texts
from .messages import tell, told
from .pictures import caption, overview_task
from .plain import plain
from .remembered import recalled, remember
from .report_words import report_words
from .run import shared_client
from .shown import shown_result
from .translated import translated

# The numbers of the kept result stand beside those of the present one, in place of the linear step's.
_BEFORE_COLUMN, _ALIGNED_COLUMN, _KEPT_COLUMN = 1, 2, 4
# Pixels that the longest words of the names need. Where they have less, one column of numbers makes room.
_NAMES_WIDTH, _WIDER = 100, 10
# Letters of a text in a line over the columns of numbers.
_LINE = 20
_PDF_DPI, _PDF_MARGIN = 96, 30.0


class ResultsSection:
    """Drives the widgets of the section."""

    def __init__(self, ui) -> None:
        self._ui = ui
        self._parameters: Any = None
        self._shown: tuple = ({}, {}, "", False)
        # The width of the table at which a column was hidden; 0 where all have room.
        self._too_narrow = 0
        titles = [_("Measure"), _("Before"), _("Aligned"), _("After"), _("After, A")]
        ui.resultsTable.setColumnCount(len(titles))
        ui.resultsTable.setHorizontalHeaderLabels(titles)
        ui.resultsTable.setColumnHidden(_KEPT_COLUMN, True)
        ui.resultsTable.verticalHeader().setVisible(False)
        # The names take what the numbers leave, at any width of the panel, in as many lines as they need.
        ui.resultsTable.verticalHeader().setMinimumSectionSize(21)
        ui.resultsTable.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header = ui.resultsTable.horizontalHeader()
        header.setStretchLastSection(False)
        header.setMinimumSectionSize(46)
        for column in range(len(titles)):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents if column else qt.QHeaderView.Stretch)
        header.sectionResized.connect(self._on_resized)
        ui.saveReportButton.clicked.connect(self._on_save)

    def set_parameters(self, parameters) -> None:
        self._parameters = parameters
        self.update()

    def show_result(self) -> None:
        """After a registration: the section unfolds."""
        self.update()
        self._ui.resultsCollapsibleButton.collapsed = False

    def set_aside(self) -> None:
        """A run gave no result: the verdict below its message is that of the former one, and says so."""
        label, said = self._ui.verdictLabel, _("The result of before.")
        if label.text and not label.text.startswith(said):
            label.text, label.styleSheet = f"{said} {label.text}", box(label, FORMER)

    def update(self) -> None:
        """Show the report of the result, and beside it that of the kept one."""
        shown = shown_result(self._parameters)
        kept = shown.kept_report if shown.kept is not shown.transform else {}
        self._ui.resultsCollapsibleButton.enabled = bool(shown.report)
        # The colours are those of the theme at the time.
        known = (shown.report, kept, shown.refused, is_dark(self._ui.verdictLabel))
        if known == self._shown:
            return
        self._shown = known
        self._fill_warnings(shown.report, shown.refused)
        self._fill_table(shown.report, kept)

    def _fill_warnings(self, report: dict, refused: str) -> None:
        """The verdict above all sections, and in the section what is left of the warnings."""
        if not report:
            _show(self._ui.verdictLabel, escape(translated(refused)), BAD)
            _show(self._ui.warningsLabel, "", LOOK)
            return
        found = verdict(report)
        title, reason = verdict_texts(found)
        text = f"<b>{escape(title)}:</b> {escape(reason)}"
        frame = (report.get("inputs", {}).get("frames") or {}).get("moving")
        if frame:
            # Of a sequence of results the others may be different.
            text += "<br>" + escape(_("This is the result of {frame}.").format(frame=in_words(frame)))
        _show(self._ui.verdictLabel, text, found.level)
        warnings = [line for line in report.get("warnings", []) if line != found.reason]
        _show(self._ui.warningsLabel, "<br>".join(f"\u2022 {escape(translated(line))}" for line in warnings), LOOK)

    def _fill_table(self, report: dict, kept: dict) -> None:
        table = self._ui.resultsTable
        table.clearSpans()
        table.setRowCount(0)
        table.setColumnHidden(_KEPT_COLUMN, not kept)
        table.setColumnHidden(_ALIGNED_COLUMN, bool(kept))
        table.setColumnHidden(_BEFORE_COLUMN, False)
        self._too_narrow = 0
        group = None
        others = {(row.group, row.name, row.unit): row for row in rows(kept)} if kept else {}
        for row in rows(report) if report else []:
            if row.group != group:
                group = row.group
                self._add_head(group_title(group))
            self._add_row(row, others.get((row.group, row.name, row.unit)))

    def _on_resized(self, section: int, *_unused) -> None:
        if section == 0:
            # Not within the change that it is told by.
            qt.QTimer.singleShot(0, self._make_room)

    def _make_room(self) -> None:
        """Hide a column of numbers in a narrow panel: of the linear step, or those before where two are compared."""
        table = self._ui.resultsTable
        column = _ALIGNED_COLUMN if table.isColumnHidden(_KEPT_COLUMN) else _BEFORE_COLUMN
        # Not the viewport's, which changes as the table's own scroll bar comes and goes with a column.
        width = table.width
        if not self._too_narrow and table.columnWidth(0) < _NAMES_WIDTH:
            self._too_narrow = width
            table.setColumnHidden(column, True)
        elif self._too_narrow and width > self._too_narrow + _WIDER:
            self._too_narrow = 0
            table.setColumnHidden(column, False)

    def _add_head(self, text: str) -> None:
        table, number = self._ui.resultsTable, self._ui.resultsTable.rowCount
        table.insertRow(number)
        item = qt.QTableWidgetItem(text)
        font = item.font()
        font.setBold(True)
        item.setFont(font)
        color, ground = head(table)
        item.setBackground(qt.QBrush(qt.QColor(ground)))
        item.setForeground(qt.QBrush(qt.QColor(color)))
        table.setItem(number, 0, item)
        table.setSpan(number, 0, 1, _KEPT_COLUMN + 1)

    def _add_row(self, row: Row, kept: Row | None) -> None:
        table, number = self._ui.resultsTable, self._ui.resultsTable.rowCount
        table.insertRow(number)
        said = not row.unit or row.unit in row.name.split(", ")[0].split()
        title = row_title(row)
        name = qt.QTableWidgetItem(title if said else f"{title} ({row.unit})")
        name.setToolTip(plain(name.text()))
        table.setItem(number, 0, name)
        numbers = [row.number(column) for column in ("before", "aligned", "after")]
        if kept is not None:
            self._add_number(number, _KEPT_COLUMN, kept.number("after"))
        if row.text and not any(numbers):
            note = row_note(row)
            item = qt.QTableWidgetItem(note)
            item.setToolTip(plain(note))
            # Else Qt makes the first of the columns that it spans as wide as the text.
            lines, height = -(-len(note) // _LINE), qt.QFontMetrics(table.font).height()
            item.setSizeHint(qt.QSize(1, lines * height + 4))
            table.setItem(number, 1, item)
            table.setSpan(number, 1, 1, 3)
            return
        for column, text in enumerate(numbers, start=1):
            self._add_number(number, column, text)

    def _add_number(self, number: int, column: int, text: str) -> None:
        item = qt.QTableWidgetItem(text)
        item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        self._ui.resultsTable.setItem(number, column, item)

    # --- the report as a file ---

    def _on_save(self, *_unused) -> None:
        # One filter for both: which one was chosen is not told, and the name decides.
        kinds = "*.html *.pdf" if _can_print() else "*.html"
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(),
            _("Save the report as .html or .pdf") if _can_print() else _("Save the report"),
            str(Path(recalled("report", str)) / self._file_name()),
            _("Reports") + f" ({kinds})",
        )
        if path:
            remember("report", str(Path(path).parent))
            self.save(path if Path(path).suffix.lower() in (".html", ".htm", ".pdf") else f"{path}.html")

    def _file_name(self) -> str:
        """The report's file is named after the transform, without what file names cannot hold."""
        transform = shown_result(self._parameters).transform
        name = "".join("_" if one in '<>:"/\\|?*' or ord(one) < 32 else one for one in transform.GetName())
        return f"{name} report.html"

    def save(self, path: str | Path) -> None:
        """Write the report, as a PDF where the name ends so, else as a web page; replaces a file.

        The worker draws its picture first. Returns at once; errors are told.
        """
        shown = shown_result(self._parameters)
        report = shown.report
        with told():
            task = overview_task(shown.transform, shown.warped, shown.jacobian, shown.expected_error)
            if task is None:
                _write(path, report, {})
                return
            self._set_saving(True)
            try:
                shared_client().submit(
                    task,
                    on_result=lambda octets: self._on_drawn(path, report, {caption(): octets.tobytes()}),
                    on_error=self._on_failed,
                    on_cancelled=lambda: self._set_saving(False),
                )
            except VoxelMorphError:
                self._set_saving(False)
                raise

    def _set_saving(self, saving: bool) -> None:
        self._ui.saveReportButton.enabled = not saving
        self._ui.saveReportButton.text = _("Saving") if saving else _("Save report...")

    def _on_drawn(self, path, report: dict, pictures: dict[str, bytes]) -> None:
        self._set_saving(False)
        with told():
            _write(path, report, pictures)

    def _on_failed(self, error: VoxelMorphError) -> None:
        self._set_saving(False)
        tell(error)


def _show(label, text: str, kind: str) -> None:
    """A label in the colours of a kind; hidden when there is nothing to say."""
    label.text, label.styleSheet = text, box(label, kind)
    label.setVisible(bool(text))


def write_table(transform):
    """The numbers of a registration's transform as its table node in the scene."""
    return write_results(transform, rows(report_of(transform)))


def _write(path: str | Path, report: dict, pictures: dict[str, bytes]) -> None:
    """Raises OutputError."""
    words = report_words()
    if str(path).lower().endswith(".pdf"):
        _print_pdf(html_report(report, pictures, words=words, on_paper=True), str(path))
    else:
        write_html_report(path, report, pictures, words=words, overwrite=True)
    slicer.util.showStatusMessage(_("The report was saved to {path}").format(path=path), 5000)


def _can_print() -> bool:
    return hasattr(qt, "QPdfWriter") or hasattr(qt, "QPrinter")


def _print_pdf(page: str, path: str) -> None:
    """Print an HTML page by Qt, page by page. Raises OutputError.

    Only what every wrapping of Qt has: paper and margins are the writer's own, and the document adds its margin.
    """
    if hasattr(qt, "QPdfWriter"):
        device = qt.QPdfWriter(path)
        device.setResolution(_PDF_DPI)
    elif hasattr(qt, "QPrinter"):
        device = qt.QPrinter(qt.QPrinter.ScreenResolution)
        device.setOutputFormat(qt.QPrinter.PdfFormat)
        device.setOutputFileName(path)
    else:
        raise OutputError(_("This Slicer cannot write PDF files. Save the report as a web page."))
    painter = qt.QPainter()
    if not painter.begin(device):
        text = _("The report could not be written to {path}. Check the folder and free space.")
        raise OutputError(text.format(path=path))
    width, height = float(device.width()), float(device.height())
    document = _laid_out(page, device, width, height)
    for number in range(document.pageCount()):
        if number:
            device.newPage()
        painter.save()
        painter.translate(0.0, -number * height)
        document.drawContents(painter, qt.QRectF(0.0, number * height, width, height))
        painter.restore()
    painter.end()


def _laid_out(page: str, device, width: float, height: float):
    """An HTML page as a text document in pages of this size, in the units of a paint device."""
    document = qt.QTextDocument()
    document.documentLayout().setPaintDevice(device)
    document.documentMargin = _PDF_MARGIN
    document.setHtml(page)
    document.setPageSize(qt.QSizeF(width, height))
    return document
