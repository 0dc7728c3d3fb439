// Command cost computes docs/cost.md from prices.json: what the examples of
// terraform/aws and terraform/gcp cost a month, what a terabyte costs that is
// kept, and one that is replayed.
//
//	go run ./terraform/cost > docs/cost.md
package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/template"
)

//go:embed prices.json
var priceTable []byte

//go:embed cost.md.tmpl
var pageText string

// price is one line of prices.json. One without a source is an assumption.
type price struct {
	Name   string  `json:"name"`   // CLOUD.THING
	USD    float64 `json:"usd"`    // more than 0
	Per    string  `json:"per"`    // unit
	Where  string  `json:"where"`  // region
	Date   string  `json:"date"`   // of the source, 2006-01-02; "unknown"
	Source string  `json:"source"` // where it was read; "" is an assumption
}

// Sizes of the computation. Clouds bill GB of 2^30 bytes; a TB here is 10^12
// bytes of what is in the bucket, compressed as its producers sent it.
const (
	hours     = 730.0                  // of a month
	terabyte  = 1e12 / (1 << 30)       // in billed GB
	partBytes = 16 << 20               // of a large object, a request each (objectstore/multipart)
	partPuts  = 1e12 / partBytes       // requests that write a TB
	chunkGets = 1e12 / float64(4<<20)  // requests that read a TB in chunks of 4 MiB, the smallest reads of a replay
	fastGets  = 1e12 / float64(32<<20) // and with readahead at its widest, 32 MiB
	rootGB    = 16.0                   // of a machine's own disk
	replicas  = 3.0                    // copies of what is hot
	elsewhere = (replicas - 1) / 3.0   // of clients and leaders, in three zones, that are in another one
	following = replicas - 1           // copies that cross a zone when each zone has one
)

// example is one of the modules' examples, as far as it costs.
type example struct {
	Cloud, Name string
	Machine     string // type, as in prices.json
	Brokers     int
	SSDs        int // local SSDs that are paid beside the machine
	NAT         bool
}

// examples are those in terraform/*/examples; a test compares.
var examples = []example{
	{"aws", "minimal", "i4i.large", 3, 0, false},
	{"aws", "production", "i8g.2xlarge", 6, 0, false},
	{"gcp", "minimal", "n2-standard-4", 3, 1, false},
	{"gcp", "production", "n2-standard-8", 6, 4, false},
}

type prices map[string]price

// usd gives a price by its name. A name that is not there is a mistake of this
// program.
func (p prices) usd(name string) float64 {
	v, ok := p[name]
	if !ok {
		panic("prices.json has no " + name)
	}
	return v.USD
}

// month is what an example costs, in USD a month.
type month struct {
	Example                     example
	Machines, Disks, DNS, Total float64
	WithNAT                     float64 // more, where the binary comes by https
}

func (p prices) month(e example) month {
	n := float64(e.Brokers)
	m := month{Example: e, Machines: n * hours * p.usd(e.Cloud+"."+e.Machine), Disks: n * rootGB * p.usd(e.Cloud+".disk"),
		DNS: p.usd(e.Cloud + ".zone"), WithNAT: hours * p.usd(e.Cloud+".nat")}
	if e.SSDs > 0 {
		m.Machines += n * float64(e.SSDs) * p.usd(e.Cloud+".ssd")
	}
	m.Total = m.Machines + m.Disks + m.DNS
	return m
}

// volume is what a TB costs, in USD.
type volume struct {
	Cloud              string
	Kept               float64 // a month in the bucket
	Written            float64 // once: requests
	Produced           float64 // once: between zones, from producers and to followers
	Replayed, Fast     float64 // requests, in small reads and in large ones
	ReplayedElsewhere  float64 // and between zones, by consumers without a rack
	TwelveMonthsOnDisk float64 // a TB a year on three network disks instead
	TwelveMonthsKept   float64
}

func (p prices) volume(cloud string) volume {
	cross := terabyte * p.usd(cloud+".cross")
	v := volume{Cloud: cloud, Kept: terabyte * p.usd(cloud+".store"), Written: partPuts * p.usd(cloud+".put"),
		Produced: cross * (elsewhere + following), Replayed: chunkGets * p.usd(cloud+".get"), Fast: fastGets * p.usd(cloud+".get")}
	v.ReplayedElsewhere = v.Replayed + cross*elsewhere
	v.TwelveMonthsKept = 12*v.Kept + v.Written
	v.TwelveMonthsOnDisk = 12 * replicas * terabyte * p.usd(cloud+".disk")
	return v
}

// read parses the table and refuses what cannot be computed with.
func read(data []byte) ([]price, prices, error) {
	var list []price
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		return nil, nil, fmt.Errorf("prices.json: %w", err)
	}
	all := prices{}
	for i, p := range list {
		if _, twice := all[p.Name]; twice || p.Name == "" || p.USD <= 0 || p.Per == "" || p.Where == "" {
			return nil, nil, fmt.Errorf("prices.json: %q: it is there twice, or lacks a name, a price above 0, a unit or a region", p.Name)
		}
		if (p.Source == "") != (p.Date == "") {
			return nil, nil, fmt.Errorf("prices.json: %q: give a source with its date, or neither for an assumption", p.Name)
		}
		if p.Source == "the same" || strings.HasPrefix(p.Source, "the same;") {
			if i == 0 {
				return nil, nil, fmt.Errorf("prices.json: %q: there is no line before it", p.Name)
			}
			list[i].Source = strings.Split(list[i-1].Source, ";")[0] + strings.TrimPrefix(p.Source, "the same")
		}
		all[p.Name] = list[i]
	}
	return list, all, nil
}

// write computes the page.
func write(w io.Writer, table []byte) error {
	list, p, err := read(table)
	if err != nil {
		return err
	}
	page, err := template.New("cost.md").Funcs(template.FuncMap{
		"usd":  func(v float64) string { return fmt.Sprintf("%.2f", v) },
		"unit": func(v float64) string { return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.7f", v), "0"), ".") },
	}).Parse(pageText)
	if err != nil {
		return err
	}
	var months []month
	for _, e := range examples {
		months = append(months, p.month(e))
	}
	return page.Execute(w, map[string]any{"Months": months, "Volumes": []volume{p.volume("aws"), p.volume("gcp")}, "Prices": list})
}

func main() {
	if err := write(os.Stdout, priceTable); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
