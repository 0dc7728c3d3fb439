package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// report is what the demo measured.
type report struct {
	store                   string
	ready                   time.Duration
	idleRSS, rss            int64
	records                 int
	bytes                   int64 // of keys and values
	produceTook             time.Duration
	hotBytes, coldBytes     int64
	hotTook, coldTook       time.Duration
	tierTook                time.Duration
	localBefore, localAfter int64
	day                     string
	dayRecords              int
	dayTook                 time.Duration
	storedBytes             int64
	objects, puts, gets     float64
}

// storeCounts takes what the broker counted of its object store.
func (r *report) storeCounts(b *process) error {
	status, err := b.tier(topic)
	if err != nil {
		return err
	}
	for _, p := range status {
		r.storedBytes += p.RemoteBytes
	}
	// A small object may hold segments of several partitions, so the objects
	// are counted where they are made.
	if r.objects, err = b.metric("firn_tiering_uploads_total"); err != nil {
		return err
	}
	puts, err := b.metric("firn_objectstore_requests_total", `op="put"`)
	if err != nil {
		return err
	}
	swaps, err := b.metric("firn_objectstore_requests_total", `op="swap"`)
	if err != nil {
		return err
	}
	r.puts = puts + swaps
	r.gets, err = b.metric("firn_objectstore_requests_total", `op="get"`)
	return err
}

// localBytes is what the topic's partitions have on local disk.
func localBytes(b *process) (int64, error) {
	status, err := b.tier(topic)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, p := range status {
		n += p.LocalBytes
	}
	return n, nil
}

func mb(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func rate(n int64, d time.Duration) string {
	return fmt.Sprintf("%.1f MB/s", float64(n)/1e6/d.Seconds())
}

func (r *report) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(t, "%s\t%v\n", name, value) }
	fmt.Fprintln(w)
	row("object store", r.store)
	row("broker ready after", r.ready.Round(time.Millisecond))
	row("records", r.records)
	row("bytes (keys and values)", mb(r.bytes))
	row("produce", rate(r.bytes, r.produceTook))
	row("hot read", rate(r.hotBytes, r.hotTook))
	row("tiered and local copies gone after", r.tierTook.Round(10*time.Millisecond))
	row("cold read", rate(r.coldBytes, r.coldTook))
	row("replay of "+r.day, fmt.Sprintf("%d records in %v", r.dayRecords, r.dayTook.Round(time.Millisecond)))
	row("objects of segments", r.objects)
	row("bytes in the store", mb(r.storedBytes))
	row("PUTs (one in parts counts once)", r.puts)
	row("GETs", r.gets)
	row("local bytes before", mb(r.localBefore))
	row("local bytes after", mb(r.localAfter))
	row("broker RSS idle / at the end", mb(r.idleRSS)+" / "+mb(r.rss))
	row("every record compared", "hot, cold, and by timestamp: equal")
	t.Flush()
}

// progress is a bar on a terminal and a line for every tenth elsewhere.
type progress struct {
	label string
	total int
	tenth int
	pool  *mpb.Progress
	bar   *mpb.Bar
}

func newProgress(label string, total int) *progress {
	p := &progress{label: label, total: max(total, 1)}
	if term.IsTerminal(int(os.Stdout.Fd())) {
		p.pool = mpb.New(mpb.WithWidth(40))
		p.bar = p.pool.AddBar(int64(p.total), mpb.PrependDecorators(decor.Name(label, decor.WC{W: 28, C: decor.DindentRight})),
			mpb.AppendDecorators(decor.CountersNoUnit("%d / %d")))
	}
	return p
}

func (p *progress) set(n int) {
	if p.bar != nil {
		p.bar.SetCurrent(int64(n))
		return
	}
	if tenth := 10 * n / p.total; tenth > p.tenth {
		p.tenth = tenth
		fmt.Printf("%-28s %3d %%  (%d)\n", p.label, 10*tenth, n)
	}
}

func (p *progress) finish() {
	if p.bar != nil {
		p.bar.Abort(false)
		p.pool.Wait()
	}
}
