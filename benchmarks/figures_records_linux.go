package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/podcni/podcni"
)

// recorded are how many attachments are recorded beside a pod's own.
func (b *bench) recorded() []int {
	if b.smoke {
		return []int{0, 50}
	}
	return []int{0, 1_000, 10_000, 50_000}
}

// tearDownFigure detaches pods beside many others' records, and starts a runtime
// that finds them.
func tearDownFigure(ctx context.Context, b *bench) (figureResults, error) {
	w := b.noopWork(1)
	lib, err := newLibcni(w)
	if err != nil {
		return figureResults{}, err
	}
	trials := []trial{{peerLib, func(int) (float64, error) { return tearDownOne(ctx, lib, b.pod()) }}}
	var names []string
	var last string // the directory with the most records
	most := 0
	for _, n := range b.recorded() {
		dir, err := b.mkdir()
		if err != nil {
			return figureResults{}, err
		}
		p, err := openPodcni(w, podcni.WithCacheDir(dir))
		if err != nil {
			return figureResults{}, err
		}
		defer func() { _ = p.Shutdown() }() // which always gives nil
		s := subjectOf(p)
		if err := b.fill(ctx, s, dir, n); err != nil {
			return figureResults{}, err
		}
		trials = append(trials, trial{fmt.Sprint(n), func(int) (float64, error) { return tearDownOne(ctx, s, b.pod()) }})
		names, last, most = append(names, fmt.Sprint(n)), dir, n
	}
	samples, err := interleave(ctx, b.times(600), trials)
	if err != nil {
		return figureResults{}, err
	}
	chart := newChart("recorded attachments", []string{ours})
	out := figureResults{Plot: &plot{
		Title: "TearDownPod, one plugin that does nothing", Unit: seconds, Chart: chart, Note: "median; less is better",
	}}
	none := samples["0"]
	for _, n := range names {
		mine := samples[n]
		chart.add(n, map[string]series{ours: mine})
		r := row{What: "TearDownPod beside " + n, Value: mine.median(), Unit: seconds}
		if n == "0" {
			r.Peer, r.PeerValue, r.Ratio = peerLib, samples[peerLib].median(), compare(mine, samples[peerLib], ofMedians)
		} else {
			r.Peer, r.PeerValue, r.Ratio, r.Must = "0:", none.median(), compare(mine, none, ofMedians), ratioAtMost(1.1)
		}
		out.Rows = append(out.Rows, r)
	}
	starts, err := b.startBeside(ctx, w, last, most)
	out.Rows = append(out.Rows, starts...)
	return out, err
}

// tearDownOne attaches a pod, and times its detachment.
func tearDownOne(ctx context.Context, s subject, p pod) (float64, error) {
	if err := s.setUp(ctx, p); err != nil {
		return 0, err
	}
	return timed(func() error { return s.tearDown(ctx, p) })
}

// fill copies the record of a pod as those of n others.
func (b *bench) fill(ctx context.Context, s subject, root string, n int) error {
	p := b.pod()
	if err := s.setUp(ctx, p); err != nil {
		return err
	}
	var file string
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(path), netName+"-"+p.id) {
			file = path
		}
		return err
	})
	if err != nil {
		return err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for i := range n {
		// Apart from the pods that come and go.
		id := podID(1<<40 + i)
		path := strings.Replace(file, p.id, id, 1)
		if err := os.WriteFile(path, bytes.ReplaceAll(content, []byte(p.id), []byte(id)), 0o600); err != nil {
			return err
		}
	}
	return s.tearDown(ctx, p)
}

// startBeside starts a runtime that finds n records in its cache directory.
func (b *bench) startBeside(ctx context.Context, w work, dir string, n int) ([]row, error) {
	var starts, lists series
	for range b.times(5) {
		var p *podcni.CNI
		at := b.pod()
		took, err := timed(func() error {
			var err error
			if p, err = openPodcni(w, podcni.WithCacheDir(dir)); err != nil {
				return err
			}
			_, err = p.SetUpPodWithContext(ctx, podOf(at))
			return err
		})
		if err != nil {
			return nil, err
		}
		starts = append(starts, took)
		took, err = timed(func() error {
			all, err := p.Attachments(ctx)
			if err == nil && len(all) != n+1 {
				err = fmt.Errorf("%d attachments instead of %d", len(all), n+1)
			}
			return err
		})
		if err = errors.Join(err, p.TearDownPodWithContext(ctx, podOf(at)), p.Shutdown()); err != nil {
			return nil, err
		}
		lists = append(lists, took)
	}
	return []row{
		{What: fmt.Sprintf("New and the first SetUpPod beside %d", n), Value: starts.median(), Unit: seconds, Must: atMost(1)},
		{What: fmt.Sprintf("Attachments, which reads all of the %d", n), Value: lists.median(), Unit: seconds},
	}, nil
}
