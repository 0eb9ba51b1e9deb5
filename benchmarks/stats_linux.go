package main

import (
	"math"
	"math/rand/v2"
	"slices"
)

// series are the samples of one subject, in the order of rounds.
type series []float64

// quantile is the sample that a share q of all samples do not exceed.
func (s series) quantile(q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	return s.sorted().at(q)
}

func (s series) sorted() series {
	sorted := slices.Clone(s)
	slices.Sort(sorted)
	return sorted
}

// at is quantile of samples that are sorted, between two samples in proportion.
func (s series) at(q float64) float64 {
	pos := q * float64(len(s)-1)
	low := int(pos)
	if low+1 >= len(s) {
		return s[len(s)-1]
	}
	share := pos - float64(low)
	return s[low]*(1-share) + s[low+1]*share
}

func (s series) median() float64 { return s.quantile(0.5) }

// interval is a value with the interval that holds it 95 times of 100.
type interval struct {
	Mid  float64 `json:"mid"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

const resamples = 300

// compare gives f of the two series with its interval, by drawing rounds anew: a
// round's samples were taken under the same conditions, and stay together. The
// draws are the same in each run.
func compare(a, b series, f func(a, b series) float64) interval {
	n := min(len(a), len(b))
	random := rand.New(rand.NewPCG(1, 2))
	values := make(series, resamples)
	drawnA, drawnB := make(series, n), make(series, n)
	for i := range values {
		for j := range n {
			k := random.IntN(n)
			drawnA[j], drawnB[j] = a[k], b[k]
		}
		values[i] = f(drawnA, drawnB)
	}
	slices.Sort(values)
	return interval{Mid: f(a, b), Low: values.at(0.025), High: values.at(0.975)}
}

// only is a value of which there is but one sample.
func only(v float64) interval { return interval{Mid: v} }

// ofMedians is the ratio of the medians.
func ofMedians(a, b series) float64 { return a.median() / b.median() }

// ofP99 is the ratio of the 99th percentiles.
func ofP99(a, b series) float64 { return a.quantile(0.99) / b.quantile(0.99) }

// alone gives f of one series with its interval.
func alone(a series, f func(a series) float64) interval {
	return compare(a, a, func(a, _ series) float64 { return f(a) })
}
