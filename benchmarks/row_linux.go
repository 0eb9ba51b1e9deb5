package main

import (
	"fmt"
	"math"
	"strconv"
)

// unit is what a number counts.
type unit string

const (
	seconds   unit = "s"
	podsPerS  unit = "pods/s"
	byteCount unit = "B"
	share     unit = "%"
	count     unit = ""
)

// format writes a value with three digits.
func (u unit) format(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case u == seconds && math.Abs(v) < 1e-3:
		return digits(v*1e6) + " us"
	case u == seconds && math.Abs(v) < 1:
		return digits(v*1e3) + " ms"
	case u == byteCount && math.Abs(v) >= 1<<20:
		return digits(v/(1<<20)) + " MiB"
	case u == byteCount && math.Abs(v) >= 1<<10:
		return digits(v/(1<<10)) + " KiB"
	case u == share:
		return digits(v*100) + " %"
	case u == count:
		return digits(v)
	}
	return digits(v) + " " + string(u)
}

func digits(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// bound is what a figure must reach.
type bound struct {
	Least bool    `json:"atLeast,omitempty"` // it must not be less; otherwise not more
	Value float64 `json:"value"`
	Ratio bool    `json:"ofTheRatio,omitempty"` // it is about the ratio, not the median
}

func atMost(v float64) *bound       { return &bound{Value: v} }
func ratioAtMost(v float64) *bound  { return &bound{Value: v, Ratio: true} }
func ratioAtLeast(v float64) *bound { return &bound{Value: v, Ratio: true, Least: true} }

// row is one line of the table.
type row struct {
	What  string   `json:"what"`
	Value float64  `json:"value"`
	Unit  unit     `json:"unit"`
	Range interval `json:"range,omitzero"` // of Value
	// Peer is whose value is beside ours, and Ratio ours over the peer's.
	Peer      string   `json:"peer,omitempty"`
	PeerValue float64  `json:"peerValue,omitempty"`
	Ratio     interval `json:"ratio,omitzero"`
	Must      *bound   `json:"must,omitempty"`
	Met       verdict  `json:"met,omitempty"`
	Note      string   `json:"note,omitempty"`
}

// verdict says whether a row reaches what it must. A run that cannot tell, since
// the bound is within the interval, says so.
type verdict string

const (
	yes  verdict = "yes"
	no   verdict = "no"
	near verdict = "no, within noise"
)

// judge fills in Met.
func (r row) judge() row {
	if r.Must == nil {
		return r
	}
	got := interval{Mid: r.Value, Low: r.Value, High: r.Value}
	switch {
	case r.Must.Ratio:
		got = r.Ratio
	case r.Range != interval{}:
		got = r.Range
	}
	if r.Must.Least {
		// The same the other way round.
		got = interval{Mid: -got.Mid, Low: -got.High, High: -got.Low}
	}
	limit := r.Must.Value
	if r.Must.Least {
		limit = -limit
	}
	switch {
	case got.Mid <= limit:
		r.Met = yes
	case got.Low <= limit:
		r.Met = near
	default:
		r.Met = no
	}
	return r
}

// cells are the row as the table has it.
func (r row) cells() []string {
	peer, ratio, must := "", "", ""
	if r.Peer != "" {
		peer = r.Peer + " " + r.Unit.format(r.PeerValue)
	}
	switch {
	case r.Ratio == interval{}:
	case r.Ratio.Low == 0:
		ratio = fmt.Sprintf("%.2f", r.Ratio.Mid)
	default:
		ratio = fmt.Sprintf("%.2f (%.2f-%.2f)", r.Ratio.Mid, r.Ratio.Low, r.Ratio.High)
	}
	if r.Must != nil {
		sign, value := "<=", r.Unit.format(r.Must.Value)
		if r.Must.Least {
			sign = ">="
		}
		if r.Must.Ratio {
			value = fmt.Sprintf("%.2f x", r.Must.Value)
		}
		must = sign + " " + value
	}
	what := r.What
	if r.Note != "" {
		what += " [" + r.Note + "]"
	}
	return []string{what, r.Unit.format(r.Value), peer, ratio, must, string(r.Met)}
}
