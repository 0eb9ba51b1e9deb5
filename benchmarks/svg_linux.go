package main

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strings"
)

// plot is a picture of one figure: bars, or lines over something that grows.
type plot struct {
	Title string `json:"title"`
	Note  string `json:"note,omitempty"`
	Unit  unit   `json:"unit"`
	Bars  []bar  `json:"bars,omitempty"`
	Chart *chart `json:"chart,omitempty"`
}

// bar is a value with the range that it is in, both ends 0 for none.
type bar struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Low   float64 `json:"low,omitempty"`
	High  float64 `json:"high,omitempty"`
}

// chart has lines over the same points.
type chart struct {
	Over   string      `json:"over"`
	Points []string    `json:"points"`
	Names  []string    `json:"names"`
	Values [][]float64 `json:"values"` // by name, by point
}

func newChart(over string, names []string) *chart {
	return &chart{Over: over, Names: names, Values: make([][]float64, len(names))}
}

// add adds a point: the medians of those that the chart is about.
func (c *chart) add(point string, samples map[string]series) {
	c.Points = append(c.Points, point)
	for i, name := range c.Names {
		c.Values[i] = append(c.Values[i], samples[name].median())
	}
}

// The picture's measures, in pixels.
const (
	width    = 640
	left     = 190 // where bars begin
	right    = 90  // room for a bar's value
	barRoom  = 30
	barSize  = 18
	header   = 54
	area     = 200 // height of a chart
	chartEnd = width - 110
)

// colorOf is the same for a name in every picture. What is libcni's, whatever of
// it, has libcni's; what names nobody is ours.
func colorOf(name string) string {
	switch {
	case strings.HasPrefix(name, peerLib):
		return "#9aa5b1"
	case name == peerGo:
		return "#c3a26b"
	case name == theFloor:
		return "#6b7b6e"
	}
	return "#1a6fb5"
}

// svg draws the plot.
func (p *plot) svg() []byte {
	d := &drawing{}
	if p.Chart != nil {
		d.chart(p)
	} else {
		d.bars(p)
	}
	return d.finish(p)
}

// drawing is a picture on its way.
type drawing struct {
	body   bytes.Buffer
	height int
}

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(&d.body, format+"\n", args...) }

func (d *drawing) text(x, y float64, anchor, class, s string) {
	d.add(`<text x="%.0f" y="%.0f" text-anchor="%s" class="%s">%s</text>`, x, y, anchor, class, escape(s))
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes everything
	return b.String()
}

func (d *drawing) finish(p *plot) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">
<title>%s</title>
<style>text{font:13px sans-serif;fill:#222}.head{font-weight:bold;font-size:15px}.note{fill:#666;font-size:12px}</style>
<rect width="100%%" height="100%%" fill="#fff"/>
<text x="16" y="24" class="head">%s</text>
<text x="16" y="42" class="note">%s</text>
`, width, d.height, width, d.height, escape(p.Title), escape(p.Title), escape(p.Note))
	b.Write(d.body.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (d *drawing) bars(p *plot) {
	longest := 0.0
	for _, b := range p.Bars {
		longest = max(longest, b.Value, b.High)
	}
	scale := float64(width-left-right) / nonZero(longest)
	for i, b := range p.Bars {
		y := float64(header + i*barRoom)
		d.text(left-8, y+14, "end", "name", b.Name)
		d.add(`<rect x="%d" y="%.0f" width="%.1f" height="%d" fill="%s"/>`, left, y, b.Value*scale, barSize, colorOf(b.Name))
		end := b.Value
		if b.High > b.Low {
			mid := y + barSize/2
			d.add(`<path d="M%.1f %.0fH%.1fM%.1f %.0fv8M%.1f %.0fv8" stroke="#222" fill="none"/>`,
				left+b.Low*scale, mid, left+b.High*scale, left+b.Low*scale, mid-4, left+b.High*scale, mid-4)
			end = max(end, b.High)
		}
		d.text(left+end*scale+8, y+14, "start", "value", p.Unit.format(b.Value))
	}
	d.height = header + len(p.Bars)*barRoom + 8
}

func nonZero(v float64) float64 {
	if v <= 0 || math.IsNaN(v) {
		return 1
	}
	return v
}

func (d *drawing) chart(p *plot) {
	c := p.Chart
	top := 0.0
	for _, values := range c.Values {
		for _, v := range values {
			top = max(top, v)
		}
	}
	const from = 90.0
	bottom := float64(header + area)
	x := func(i int) float64 {
		return from + float64(i)*(chartEnd-from)/float64(max(len(c.Points)-1, 1))
	}
	y := func(v float64) float64 { return bottom - v/nonZero(top)*(area-10) }
	for i := range 5 {
		v := top * float64(i) / 4
		d.add(`<path d="M%.0f %.1fH%d" stroke="#e3e3e3"/>`, from, y(v), chartEnd)
		d.text(from-6, y(v)+4, "end", "note", p.Unit.format(v))
	}
	for i, point := range c.Points {
		d.text(x(i), bottom+18, "middle", "note", point)
	}
	d.text((from+chartEnd)/2, bottom+36, "middle", "note", c.Over)

	// The names stand where their lines end, and not upon each other.
	order := make([]int, len(c.Names))
	for i := range order {
		order[i] = i
	}
	last := func(i int) float64 { return c.Values[i][len(c.Values[i])-1] }
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(last(b), last(a)) })
	label := math.Inf(-1)
	for _, i := range order {
		color := colorOf(c.Names[i])
		d.add(`<polyline fill="none" stroke="%s" stroke-width="2" points="`, color)
		for j, v := range c.Values[i] {
			d.add("%.1f,%.1f", x(j), y(v))
		}
		d.add(`"/>`)
		for j, v := range c.Values[i] {
			d.add(`<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x(j), y(v), color)
		}
		label = max(label+16, y(last(i))+4)
		d.text(chartEnd+10, label, "start", "name", c.Names[i])
	}
	d.height = int(bottom) + 48
}
