package podcni

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkRecord is what records cost one attachment: claim, put, lookup and
// remove, beside others.
func BenchmarkRecord(b *testing.B) {
	for _, beside := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("beside=%d", beside), func(b *testing.B) {
			s := newTestStore(b, b.TempDir())
			fillRecords(b, s, beside)
			rec := testRecord("bench-sandbox", "net", "eth0")
			rec.Config = []byte(`{"name":"net","plugins":[` + strings.Repeat(" ", 1024) + `]}`)
			done := attached(rec)
			_, _, err := s.ofSandbox(rec.ContainerID)
			require.NoError(b, err)
			steps := []struct {
				name  string
				run   func() error
				spent time.Duration
			}{
				{name: "claim", run: func() error { return s.claim(rec) }},
				{name: "put", run: func() error { return s.put(done) }},
				{name: "lookup", run: func() error { _, _, err := s.ofSandbox(rec.ContainerID); return err }},
				{name: "remove", run: func() error { return s.remove(done) }},
			}
			b.ReportAllocs()
			for b.Loop() {
				for i := range steps {
					start := time.Now()
					if err := steps[i].run(); err != nil {
						b.Fatal(err)
					}
					steps[i].spent += time.Since(start)
				}
			}
			for _, step := range steps {
				b.ReportMetric(float64(step.spent.Nanoseconds())/float64(b.N), step.name+"-ns/op")
			}
		})
	}
}

// BenchmarkRecordsStart is the first lookup beside many records.
func BenchmarkRecordsStart(b *testing.B) {
	dir := b.TempDir()
	fillRecords(b, newTestStore(b, dir), 50_000)
	b.ReportAllocs()
	for b.Loop() {
		s := newTestStore(b, dir)
		if _, _, err := s.ofSandbox("other-000007"); err != nil {
			b.Fatal(err)
		}
	}
}
