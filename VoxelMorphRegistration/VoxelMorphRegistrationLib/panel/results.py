"""The section 'Results': warnings, the table of numbers, and the report as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import OutputError, VoxelMorphError
from ..mrml.names import REPORT_ATTRIBUTE
from ..mrml.table import write_results
from ..results.html import html_report, write_html_report
from ..results.table import Row, rows
from .messages import tell, told
from .pictures import CAPTION, overview_task
from .run import shared_client

_WARNING = "background-color: #fdf0e3; color: #8a4500; padding: 6px; border-radius: 3px;"
_FINE = "background-color: #e9f5ec; color: #1f6632; padding: 6px; border-radius: 3px;"
_HEAD = "#dfe6ee"
_PDF_DPI, _PDF_MARGIN = 96, 30.0


class ResultsSection:
    """Drives the widgets of the section."""

    def __init__(self, ui) -> None:
        self._ui, self._shown = ui, ""
        self._parameters: Any = None
        ui.resultsTable.setColumnCount(4)
        ui.resultsTable.setHorizontalHeaderLabels([_("Measure"), _("Before"), _("Aligned"), _("After")])
        ui.resultsTable.verticalHeader().setVisible(False)
        ui.resultsTable.verticalHeader().setDefaultSectionSize(21)
        ui.saveReportButton.clicked.connect(self._on_save)

    def set_parameters(self, parameters) -> None:
        self._parameters = parameters
        self.update()

    def show_result(self) -> None:
        """After a registration: the section unfolds."""
        self.update()
        self._ui.resultsCollapsibleButton.collapsed = False

    def update(self) -> None:
        """Show the report of the output transform, if it has one."""
        transform = self._transform()
        text = (transform.GetAttribute(REPORT_ATTRIBUTE) or "") if transform else ""
        self._ui.resultsCollapsibleButton.enabled = bool(text)
        if text == self._shown:
            return
        self._shown = text
        self._fill_warnings()
        self._fill_table()

    def _transform(self):
        transform = self._parameters.outputTransform if self._parameters else None
        return transform if transform is not None and transform.GetScene() is not None else None

    def _report(self) -> dict:
        return json.loads(self._transform().GetAttribute(REPORT_ATTRIBUTE))

    def _fill_warnings(self) -> None:
        label = self._ui.warningsLabel
        warnings = json.loads(self._shown).get("warnings", []) if self._shown else []
        lines = "\n".join(f"\u2022 {text}" for text in warnings)
        label.text = lines or _("No warnings. Look at the slice views all the same.")
        label.styleSheet = _WARNING if warnings else _FINE

    def _fill_table(self) -> None:
        table = self._ui.resultsTable
        table.clearSpans()
        table.setRowCount(0)
        group = None
        for row in rows(json.loads(self._shown)) if self._shown else []:
            if row.group != group:
                group = row.group
                self._add_head(group)
            self._add_row(row)
        table.resizeColumnsToContents()
        table.setColumnWidth(0, max(table.columnWidth(0), 190))
        table.horizontalHeader().setStretchLastSection(True)

    def _add_head(self, text: str) -> None:
        table, number = self._ui.resultsTable, self._ui.resultsTable.rowCount
        table.insertRow(number)
        item = qt.QTableWidgetItem(text)
        font = item.font()
        font.setBold(True)
        item.setFont(font)
        item.setBackground(qt.QBrush(qt.QColor(_HEAD)))
        item.setForeground(qt.QBrush(qt.QColor("#1c1c1c")))
        table.setItem(number, 0, item)
        table.setSpan(number, 0, 1, 4)

    def _add_row(self, row: Row) -> None:
        table, number = self._ui.resultsTable, self._ui.resultsTable.rowCount
        table.insertRow(number)
        said = not row.unit or row.unit in row.name.split(", ")[0].split()
        table.setItem(number, 0, qt.QTableWidgetItem(row.name if said else f"{row.name} ({row.unit})"))
        numbers = [row.number(column) for column in ("before", "aligned", "after")]
        if row.text and not any(numbers):
            item = qt.QTableWidgetItem(row.text)
            item.setToolTip(row.text)
            table.setItem(number, 1, item)
            table.setSpan(number, 1, 1, 3)
            return
        for column, text in enumerate(numbers, start=1):
            item = qt.QTableWidgetItem(text)
            item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            table.setItem(number, column, item)

    # --- the report as a file ---

    def _on_save(self, *_unused) -> None:
        # One filter for both: which one was chosen is not told, and the name decides.
        kinds = "*.html *.pdf" if _can_print() else "*.html"
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(),
            _("Save the report as .html or .pdf") if _can_print() else _("Save the report"),
            "registration-report.html",
            _("Reports") + f" ({kinds})",
        )
        if path:
            self.save(path if Path(path).suffix.lower() in (".html", ".htm", ".pdf") else f"{path}.html")

    def save(self, path: str | Path) -> None:
        """Write the report, as a PDF where the name ends so, else as a web page; replaces a file.

        The worker draws its picture first. Returns at once; errors are told.
        """
        report, transform = self._report(), self._transform()
        with told():
            task = overview_task(transform, self._parameters.outputVolume, self._parameters.outputJacobian)
            if task is None:
                _write(path, report, {})
                return
            self._set_saving(True)
            try:
                shared_client().submit(
                    task,
                    on_result=lambda octets: self._on_drawn(path, report, {CAPTION: octets.tobytes()}),
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


def write_table(transform):
    """The numbers of a registration's transform as its table node in the scene."""
    return write_results(transform, rows(json.loads(transform.GetAttribute(REPORT_ATTRIBUTE))))


def _write(path: str | Path, report: dict, pictures: dict[str, bytes]) -> None:
    """Raises OutputError."""
    title = _("Registration report")
    if str(path).lower().endswith(".pdf"):
        _print_pdf(html_report(report, pictures, title=title), str(path))
    else:
        write_html_report(path, report, pictures, title=title, overwrite=True)
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
        raise OutputError("This Slicer cannot write PDF files. Save the report as a web page.")
    painter = qt.QPainter()
    if not painter.begin(device):
        raise OutputError(f"The report could not be written to {path}. Check the folder and free space.")
    width, height = float(device.width()), float(device.height())
    document = qt.QTextDocument()
    document.documentLayout().setPaintDevice(device)
    document.documentMargin = _PDF_MARGIN
    document.setHtml(page)
    document.setPageSize(qt.QSizeF(width, height))
    for number in range(document.pageCount()):
        if number:
            device.newPage()
        painter.save()
        painter.translate(0.0, -number * height)
        document.drawContents(painter, qt.QRectF(0.0, number * height, width, height))
        painter.restore()
    painter.end()
