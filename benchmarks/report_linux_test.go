package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuantiles(t *testing.T) {
	t.Parallel()
	s := series{5, 1, 3, 2, 4}
	require.InDelta(t, 3.0, s.median(), 1e-9)
	require.InDelta(t, 1.0, s.quantile(0), 1e-9)
	require.InDelta(t, 5.0, s.quantile(1), 1e-9)
	require.InDelta(t, 4.6, s.quantile(0.9), 1e-9)
	require.Equal(t, series{5, 1, 3, 2, 4}, s, "the order of rounds stays")
	require.True(t, math.IsNaN(series{}.median()))
	require.InDelta(t, 7.0, series{7}.quantile(0.99), 1e-9)
}

func TestCompare(t *testing.T) {
	t.Parallel()
	var a, b series
	for i := range 200 {
		slow := float64(1 + i%7) // disturbs both alike
		a, b = append(a, 2*slow), append(b, slow)
	}
	got := compare(a, b, ofMedians)
	require.InDelta(t, 2.0, got.Mid, 1e-9)
	require.InDelta(t, 2.0, got.Low, 0.5)
	require.InDelta(t, 2.0, got.High, 0.5)
	require.LessOrEqual(t, got.Low, got.High)
	require.Equal(t, got, compare(a, b, ofMedians), "the same samples give the same interval")
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		row  row
		want verdict
	}{
		"nothing asked":      {row{Value: 9}, ""},
		"value":              {row{Value: 1, Must: atMost(1)}, yes},
		"value above":        {row{Value: 1.1, Must: atMost(1)}, no},
		"value near":         {row{Value: 1.1, Range: interval{1.1, 0.9, 1.2}, Must: atMost(1)}, near},
		"ratio":              {row{Value: 9, Ratio: interval{0.9, 0.8, 1.1}, Must: ratioAtMost(1)}, yes},
		"ratio above":        {row{Ratio: interval{1.2, 1.1, 1.3}, Must: ratioAtMost(1)}, no},
		"ratio near":         {row{Ratio: interval{1.05, 0.99, 1.3}, Must: ratioAtMost(1)}, near},
		"ratio at least":     {row{Ratio: interval{1.2, 1.1, 1.3}, Must: ratioAtLeast(1.15)}, yes},
		"ratio too little":   {row{Ratio: interval{1, 0.9, 1.1}, Must: ratioAtLeast(1.15)}, no},
		"ratio nearly there": {row{Ratio: interval{1.1, 1, 1.2}, Must: ratioAtLeast(1.15)}, near},
	} {
		require.Equal(t, test.want, test.row.judge().Met, name)
	}
}

func TestUnits(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"812 us":     seconds.format(812e-6),
		"0.77 us":    seconds.format(0.77e-6),
		"31.7 ms":    seconds.format(0.0317),
		"1.37 s":     seconds.format(1.371),
		"1.50 KiB":   byteCount.format(1536),
		"2 MiB":      byteCount.format(2 << 20),
		"0.79 %":     share.format(0.0079),
		"625 pods/s": podsPerS.format(625.2),
		"149":        count.format(149),
		"-":          seconds.format(math.NaN()),
	} {
		require.Equal(t, want, got)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	table(&out, []figureResults{
		{Name: "a", What: "A", Rows: []row{row{
			What: "SetUpPod", Value: 0.001, Unit: seconds, Peer: peerLib, PeerValue: 0.002,
			Ratio: interval{0.5, 0.4, 0.6}, Must: ratioAtMost(1),
		}.judge()}},
		{Name: "b", What: "B", Skipped: "no plugins"},
	})
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 4)
	for _, line := range lines {
		require.Equal(t, 8, strings.Count(line, "|"), line)
	}
	require.Equal(t, "| a | SetUpPod | 1 ms | libcni 2 ms | 0.50 (0.40-0.60) | <= 1.00 x | yes |",
		strings.Join(strings.Fields(lines[2]), " "))
	require.Contains(t, lines[3], "B [left out: no plugins]")
}

// TestSVG draws one plot of each kind and reads it as XML.
func TestSVG(t *testing.T) {
	t.Parallel()
	lines := newChart("pods & records", []string{ours, peerLib})
	lines.add("0", map[string]series{ours: {1}, peerLib: {2}})
	lines.add("<10>", map[string]series{ours: {1}, peerLib: {3}})
	for _, p := range []plot{
		{Title: "bars <&>", Unit: seconds, Bars: []bar{{Name: ours, Value: 1, Low: 0.5, High: 2}, {Name: "none"}}},
		{Title: "lines", Unit: podsPerS, Chart: lines},
		{Title: "nothing", Unit: count},
	} {
		dec := xml.NewDecoder(bytes.NewReader(p.svg()))
		texts := 0
		for {
			token, err := dec.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, p.Title)
			if start, ok := token.(xml.StartElement); ok && start.Name.Local == "text" {
				texts++
			}
		}
		require.GreaterOrEqual(t, texts, 2, p.Title)
		require.NotContains(t, string(p.svg()), "NaN")
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	s, err := parse([]string{"--smoke", "--only", "setup", "--json", "x"}, io.Discard)
	require.NoError(t, err)
	require.True(t, s.smoke)
	require.Equal(t, "x", s.jsonPath)
	require.True(t, s.only.MatchString("setup-1"))
	for _, args := range [][]string{{"--only", "("}, {"surplus"}, {"--no-such-flag"}} {
		_, err := parse(args, io.Discard)
		require.Error(t, err, args)
	}
}

func TestFigureNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, f := range figures() {
		require.False(t, seen[f.name], f.name)
		require.NotEmpty(t, f.what)
		seen[f.name] = true
	}
}
