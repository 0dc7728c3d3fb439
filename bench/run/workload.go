package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/firnlog/firn/record"
)

// Workload is one file of bench/workloads: what is done to which systems, and
// what must come of it. Exactly one of the steps is set.
type Workload struct {
	Name       string
	About      string   // one sentence for the report
	Systems    []string // in the order in which each round measures them
	Partitions int      // of the topic

	Produce  *Produce  `yaml:",omitempty"`
	Tail     *Tail     `yaml:",omitempty"`
	OpenLoop *OpenLoop `yaml:"openLoop,omitempty"`
	CatchUp  *CatchUp  `yaml:"catchUp,omitempty"`
	Many     *Many     `yaml:",omitempty"`
	Client   *Client   `yaml:",omitempty"`
	Cold     *Cold     `yaml:",omitempty"`
	Start    *Start    `yaml:",omitempty"`
	Idle     *Idle     `yaml:",omitempty"`

	Must []Goal `yaml:",omitempty"`

	text string // the file
}

// Batch says which record batches are sent.
type Batch struct {
	Size  Size  // before compression
	Codec Codec `yaml:",omitempty"`
}

// Produce fills the topic as fast as it goes, several times over: the phases
// are "pass 1" (first touch, cold JIT), "pass 2", ….
type Produce struct {
	Batch       Batch
	Connections int
	InFlight    int `yaml:"inFlight"`
	Acks        int16
	Bytes       Size // in each pass
	Passes      int
}

// Tail has consumers read what was just written, as fast as it goes.
type Tail struct {
	Batch     Batch
	Load      Size // written first
	Consumers int
	MaxBytes  Size `yaml:"maxBytes"` // of a partition in a response
	Bytes     Size // read by all of them together, round and round
}

// OpenLoop sends at a fixed rate and measures latency to acknowledgement and
// to arrival at a consumer.
type OpenLoop struct {
	Batch  Batch
	Acks   int16
	Rate   Size // a second
	For    time.Duration
	Settle time.Duration // at the start, not counted
}

// CatchUp sends at a fixed rate, in the phase "alone" with the one consumer
// that reads along, in the phase "catching up" while another reads a backlog
// as fast as it goes, round and round.
type CatchUp struct {
	OpenLoop `yaml:",inline"`
	Backlog  Size
}

// Many measures a topic of many partitions: "first write" from asking for the
// topic until each partition took a write, "trickle" at a fixed rate round all
// of them, and full speed to a topic of 100 partitions and to all of them.
type Many struct {
	Trickle     OpenLoop
	Batch       Batch // at full speed
	Connections int
	InFlight    int  `yaml:"inFlight"`
	Bytes       Size // in each of the two
}

// Client produces and then consumes through franz-go, an ordinary client, in
// the phases "produce" and "consume"; bytes and MB/s are those of values.
type Client struct {
	Bytes Size
}

// Cold has one consumer read everything from offset 0 after all of it went to
// an object store, a MinIO that the runner starts, and no local copy is left:
// in the phase "cache empty" each chunk comes from the store, in "cache warm"
// from Firn's cache on local disk. "ranged GETs" before them reads the same
// objects in ranges of 4 MiB without Firn: what the store gives.
type Cold struct {
	Batch    Batch
	Load     Size          // written first
	MaxBytes Size          `yaml:"maxBytes"` // of a partition in a response
	Streams  int           // ranged GETs at once
	Delay    time.Duration // of the first byte of each response of the store
	Rate     Size          // bytes a second of each connection to the store; 0: neither delay nor limit
}

// Start measures the time and the CPU from the start of the process, on a
// folder that holds data, until every partition took a write.
type Start struct {
	Batch  Batch
	Load   Size   // written first
	Window Size   // then written until so much is in Firn's journal since its last checkpoint; of topics that are synced only
	After  string // "stop" or "kill"
}

// Idle measures memory and CPU of a broker that was loaded and is left alone.
type Idle struct {
	Batch Batch
	Load  Size
	For   time.Duration
}

// Goal is a bound on a metric of a system, or on its ratio to another's.
type Goal struct {
	Metric  string
	Of      string   // SYSTEM or SYSTEM@PHASE; without a phase the last one counts
	Over    string   `yaml:",omitempty"`
	AtLeast *float64 `yaml:"atLeast,omitempty"`
	AtMost  *float64 `yaml:"atMost,omitempty"`
}

// Size is a number of bytes, in YAML with a unit: 16KiB, 1GiB, 50MB.
type Size int64

// UnmarshalYAML reads a number or a text with a unit.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	units := []struct {
		suffix string
		factor float64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"", 1}}
	for _, u := range units {
		number, ok := strings.CutSuffix(n.Value, u.suffix)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || f < 0 {
			break
		}
		*s = Size(f * u.factor)
		return nil
	}
	return fmt.Errorf("line %d: %q is not a size such as 16KiB, 50MB or 1GiB", n.Line, n.Value)
}

// Codec is a compression by its name.
type Codec record.Codec

// UnmarshalYAML reads none, lz4 or zstd.
func (c *Codec) UnmarshalYAML(n *yaml.Node) error {
	known := map[string]record.Codec{"none": record.None, "lz4": record.LZ4, "zstd": record.Zstd}
	codec, ok := known[n.Value]
	if !ok {
		return fmt.Errorf("line %d: %q is not none, lz4 or zstd", n.Line, n.Value)
	}
	*c = Codec(codec)
	return nil
}

func readWorkload(path string) (*Workload, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	w := &Workload{text: string(text)}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(w); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := w.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return w, nil
}

// step is what a workload does with a broker that was just started.
type step interface {
	check() error
	run(t *trial) error
}

func (w *Workload) step() step {
	var all []step
	if w.Produce != nil {
		all = append(all, w.Produce)
	}
	if w.Tail != nil {
		all = append(all, w.Tail)
	}
	if w.OpenLoop != nil {
		all = append(all, w.OpenLoop)
	}
	if w.CatchUp != nil {
		all = append(all, w.CatchUp)
	}
	if w.Many != nil {
		all = append(all, w.Many)
	}
	if w.Client != nil {
		all = append(all, w.Client)
	}
	if w.Cold != nil {
		all = append(all, w.Cold)
	}
	if w.Start != nil {
		all = append(all, w.Start)
	}
	if w.Idle != nil {
		all = append(all, w.Idle)
	}
	if len(all) != 1 {
		return nil
	}
	return all[0]
}

func (w *Workload) check() error {
	if w.Name == "" || strings.ContainsAny(w.Name, " /") {
		return errors.New("name is missing, or has a blank or a slash")
	}
	if w.Partitions < 1 {
		return errors.New("partitions is missing")
	}
	for _, name := range w.Systems {
		if findSystem(name) == nil {
			return fmt.Errorf("no system is called %q", name)
		}
	}
	if len(w.Systems) == 0 {
		return errors.New("systems is missing")
	}
	st := w.step()
	if st == nil {
		return errors.New("one of produce, tail, openLoop, catchUp, many, client, cold, start and idle is needed")
	}
	if err := st.check(); err != nil {
		return err
	}
	if w.Cold != nil && slices.ContainsFunc(w.Systems, func(s string) bool { return findSystem(s).server != "firn" }) {
		return errors.New("cold is for Firn only")
	}
	if w.Produce == nil && slices.ContainsFunc(w.Systems, func(s string) bool { return strings.HasPrefix(s, "nats") }) {
		return errors.New("nats is for produce only")
	}
	for _, g := range w.Must {
		if err := g.check(w.Systems); err != nil {
			return fmt.Errorf("must: %w", err)
		}
	}
	return nil
}

// without leaves a system out, and the goals that speak of it.
func (w *Workload) without(system string) {
	w.Systems = slices.DeleteFunc(w.Systems, func(s string) bool { return s == system })
	w.Must = slices.DeleteFunc(w.Must, func(g Goal) bool { return g.check(w.Systems) != nil })
}

func (g *Goal) check(systems []string) error {
	if findMetric(g.Metric) == nil {
		return fmt.Errorf("no metric is called %q", g.Metric)
	}
	if (g.AtLeast == nil) == (g.AtMost == nil) {
		return errors.New("one of atLeast and atMost is needed")
	}
	for _, ref := range []string{g.Of, g.Over} {
		system, _, _ := strings.Cut(ref, "@")
		if !slices.Contains(systems, system) && (ref != "" || g.Of == "") {
			return fmt.Errorf("the workload does not measure %q", ref)
		}
	}
	return nil
}

func (b *Batch) check() error {
	if b.Size < 2048 {
		return errors.New("batch.size is below two records")
	}
	return nil
}

func (p *Produce) check() error {
	if p.Connections < 1 || p.InFlight < 1 || p.Passes < 1 || p.Bytes < 1 || p.Acks != 1 && p.Acks != -1 {
		return errors.New("produce needs connections, inFlight, bytes, passes and acks of 1 or -1")
	}
	return p.Batch.check()
}

func (s *Tail) check() error {
	if s.Load < 1 || s.Consumers < 1 || s.MaxBytes < 1 || s.Bytes < 1 {
		return errors.New("tail needs load, consumers, maxBytes and bytes")
	}
	return s.Batch.check()
}

func (o *OpenLoop) check() error {
	if o.Rate < 1 || o.For <= o.Settle || o.Acks != 1 && o.Acks != -1 {
		return errors.New("openLoop needs a rate, a time longer than settle, and acks of 1 or -1")
	}
	return o.Batch.check()
}

func (c *CatchUp) check() error {
	if c.Backlog < 1 {
		return errors.New("catchUp needs a backlog")
	}
	return c.OpenLoop.check()
}

func (m *Many) check() error {
	if m.Connections < 1 || m.InFlight < 1 || m.Bytes < 1 {
		return errors.New("many needs connections, inFlight and bytes")
	}
	return errors.Join(m.Batch.check(), m.Trickle.check())
}

func (c *Client) check() error {
	if c.Bytes < 1 {
		return errors.New("client needs bytes")
	}
	return nil
}

func (c *Cold) check() error {
	if c.Load < rangeSize || c.MaxBytes < 1 || c.Streams < 1 || c.Delay > 0 && c.Rate < 1 {
		return errors.New("cold needs load of 4MiB or more, maxBytes, streams, and with a delay a rate")
	}
	return c.Batch.check()
}

func (s *Start) check() error {
	if s.Load < 1 || s.After != "stop" && s.After != "kill" {
		return errors.New("start needs load, and after: stop or kill")
	}
	return s.Batch.check()
}

func (i *Idle) check() error {
	if i.Load < 1 || i.For <= 0 {
		return errors.New("idle needs load and for")
	}
	return i.Batch.check()
}
