package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// report is all that a run found.
type report struct {
	Machine   machine         `json:"machine"`
	Started   time.Time       `json:"started"`
	Seconds   float64         `json:"seconds"`
	LoadAfter string          `json:"loadAfter"`
	Smoke     bool            `json:"smoke,omitempty"`
	Figures   []figureResults `json:"figures"`
}

// figureResults are the rows of one figure, and what its plot is drawn of.
type figureResults struct {
	Name string `json:"name"`
	What string `json:"what"`
	Rows []row  `json:"rows"`
	Plot *plot  `json:"plot,omitempty"`
	// Skipped says why there is nothing.
	Skipped string `json:"skipped,omitempty"`
}

// write prints the table, and writes the files that were asked for.
func (r *report) write(out io.Writer, s settings) error {
	if r.Smoke {
		fmt.Fprintln(out, "A smoke run: it shows that everything works; the numbers mean nothing.")
	}
	fmt.Fprintf(out, "%s\n%s\n\n", r.Machine, r.when())
	table(out, r.Figures)
	if s.jsonPath != "" {
		data, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(s.jsonPath, append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	if s.plotsDir == "" {
		return nil
	}
	if err := os.MkdirAll(s.plotsDir, 0o755); err != nil {
		return err
	}
	for _, f := range r.Figures {
		if f.Plot == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(s.plotsDir, f.Name+".svg"), f.Plot.svg(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (r *report) when() string {
	return fmt.Sprintf("%s, %.0f s; load average before: %s, after: %s",
		r.Started.UTC().Format("2006-01-02 15:04 UTC"), r.Seconds, r.Machine.Load, r.LoadAfter)
}

// table prints what a person reads; it is also a table of Markdown.
func table(out io.Writer, figures []figureResults) {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	line := func(cells ...string) { fmt.Fprintln(w, "| "+strings.Join(cells, "\t| ")+"\t|") }
	line("figure", "what", "median", "peer", "ratio (95 %)", "must reach", "met")
	line("---", "---", "---", "---", "---", "---", "---")
	for _, f := range figures {
		if f.Skipped != "" {
			line(f.Name, f.What+" [left out: "+f.Skipped+"]", "", "", "", "", "")
		}
		for _, r := range f.Rows {
			line(append([]string{f.Name}, r.cells()...)...)
		}
	}
	w.Flush()
}
