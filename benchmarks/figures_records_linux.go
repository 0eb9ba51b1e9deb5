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

// tearDownFigure detaches pods beside many others' records.
func tearDownFigure(ctx context.Context, b *bench) (figureResults, error) {
	w := b.noopWork(1)
	var trials []trial
	names := make([]string, 0, 4)
	for _, n := range b.recorded() {
		for _, peer := range []string{ours, peerLib} {
			s, err := b.beside(ctx, w, peer, n)
			if err != nil {
				return figureResults{}, err
			}
			defer s.close() // of what is measured nothing is left to go wrong
			trials = append(trials, trial{fmt.Sprint(peer, n), func(int) (float64, error) {
				p := b.pod()
				if err := s.setUp(ctx, p); err != nil {
					return 0, err
				}
				return timed(func() error { return s.tearDown(ctx, p) })
			}})
		}
		names = append(names, fmt.Sprint(n))
	}
	samples, err := interleave(ctx, b.times(500), trials)
	if err != nil {
		return figureResults{}, err
	}
	chart := newChart("recorded attachments", []string{ours, peerLib})
	out := figureResults{Plot: &plot{
		Title: "TearDownPod, one plugin that does nothing", Unit: seconds, Chart: chart, Note: "median; less is better",
	}}
	none := samples[ours+"0"]
	for _, n := range names {
		mine, lib := samples[ours+n], samples[peerLib+n]
		chart.add(n, map[string]series{ours: mine, peerLib: lib})
		out.Rows = append(out.Rows, row{
			What: "beside " + n, Value: mine.median(), Unit: seconds,
			Peer: peerLib, PeerValue: lib.median(), Ratio: compare(mine, lib, ofMedians),
		})
		if n != "0" {
			out.Rows = append(out.Rows, row{
				What: "beside " + n, Value: mine.median(), Unit: seconds,
				Peer: "0:", PeerValue: none.median(), Ratio: compare(mine, none, ofMedians), Must: ratioAtMost(1.1),
			})
		}
	}
	return out, nil
}

// beside is a subject with n records of other pods.
func (b *bench) beside(ctx context.Context, w work, name string, n int) (subject, error) {
	dir, err := b.mkdir()
	if err != nil {
		return subject{}, err
	}
	w.root = dir
	open := newPodcni
	if name == peerLib {
		open = newLibcni
	}
	s, err := open(w)
	if err != nil {
		return s, err
	}
	return s, errors.Join(b.fill(ctx, s, dir, n))
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

// recordsStartFigure starts a runtime that finds many records.
func recordsStartFigure(ctx context.Context, b *bench) (figureResults, error) {
	n := b.recorded()[len(b.recorded())-1]
	dir, err := b.mkdir()
	if err != nil {
		return figureResults{}, err
	}
	w := b.noopWork(1)
	w.root = dir
	p, err := openPodcni(w, podcni.WithCacheDir(filepath.Join(dir, "cache")))
	if err != nil {
		return figureResults{}, err
	}
	if err := errors.Join(b.fill(ctx, subjectOf(p), dir, n), p.Shutdown()); err != nil {
		return figureResults{}, err
	}
	var starts, lists series
	for range b.times(7) {
		var p *podcni.Plugin
		at := b.pod()
		took, err := timed(func() error {
			var err error
			if p, err = openPodcni(w, podcni.WithCacheDir(filepath.Join(dir, "cache"))); err != nil {
				return err
			}
			_, err = p.SetUpPodWithContext(ctx, podOf(at))
			return err
		})
		if err != nil {
			return figureResults{}, err
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
			return figureResults{}, err
		}
		lists = append(lists, took)
	}
	return figureResults{
		Rows: []row{
			{What: fmt.Sprintf("New and the first SetUpPod, %d records", n), Value: starts.median(), Unit: seconds, Must: atMost(1)},
			{What: fmt.Sprintf("Attachments, %d records read", n), Value: lists.median(), Unit: seconds},
		},
		Plot: &plot{
			Title: fmt.Sprintf("Beside %d records", n), Unit: seconds, Note: "median, with the 10th and 90th percentile",
			Bars: []bar{barOf("New and the first SetUpPod", starts), barOf("Attachments", lists)},
		},
	}, nil
}
