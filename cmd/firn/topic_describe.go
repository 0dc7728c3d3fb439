package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topicID writes an id as Kafka prints it.
func topicID(id kadm.TopicID) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// partitionInfo is one partition as describe shows it. -1 is "not known".
type partitionInfo struct {
	Partition   int32   `json:"partition"`
	Leader      int32   `json:"leader"`
	LeaderEpoch int32   `json:"leaderEpoch"`
	Replicas    []int32 `json:"replicas"`
	ISR         []int32 `json:"isr"`
	Start       int64   `json:"start"`
	End         int64   `json:"end"`
	LocalStart  int64   `json:"localStart"`
	RemoteEnd   int64   `json:"remoteEnd"`
	LocalBytes  int64   `json:"localBytes"`
	RemoteBytes int64   `json:"remoteBytes"`
	Error       string  `json:"error,omitempty"`
}

type configInfo struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

type topicInfo struct {
	Name       string          `json:"name"`
	ID         string          `json:"id"`
	Internal   bool            `json:"internal"`
	Partitions []partitionInfo `json:"partitions"`
	Configs    []configInfo    `json:"configs"`
}

func (a *app) topicDescribeCommand() *cobra.Command {
	var allConfigs bool
	var httpAddr string
	cmd := &cobra.Command{
		Use:   "describe NAME...",
		Short: "Show partitions, offsets, sizes and configs",
		Long: `Show each partition's leader, copies and offsets: the first that can be read (START), the
first on local disk (LOCAL FROM), up to where it is in the object store (REMOTE TO), and the
one that the next record gets (END); and the configs that were set by hand. Sizes come from
the broker's HTTP address, where that can be reached.`,
		Example: `  firn topic describe flights
  firn topic describe flights --all-configs`,
		Args:              args(cobra.MinimumNArgs(1), "the name of a topic, or several"),
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, names []string) error {
			ctx, adm, done, err := a.admin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			d := describer{app: a, adm: adm, allConfigs: allConfigs}
			if a.brokers == defaultBrokers || cmd.Flags().Changed("http") || a.env("FIRN_HTTP") != "" {
				d.http = httpAddr // else it could be another broker's
			}
			infos := []topicInfo{}
			for _, n := range unique(names) {
				info, err := d.describe(ctx, n)
				if err != nil {
					return err
				}
				infos = append(infos, info)
			}
			return printEach(a, infos, a.printTopic)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&allConfigs, "all-configs", false, "show the configs that have their default value too")
	a.addHTTP(f, &httpAddr)
	return cmd
}

type describer struct {
	app        *app
	adm        *kadm.Client
	allConfigs bool
	http       string // "" for none
}

func (d describer) describe(ctx context.Context, name string) (topicInfo, error) {
	topics, err := d.adm.ListTopicsWithInternal(ctx, name)
	if err != nil {
		return topicInfo{}, d.app.explain("topic "+name, err, "")
	}
	td, ok := topics[name]
	if !ok || td.Err != nil {
		if td.Err == nil {
			td.Err = kerr.UnknownTopicOrPartition
		}
		return topicInfo{}, d.app.explain("topic "+name, td.Err, "")
	}
	info := topicInfo{Name: name, ID: topicID(td.ID), Internal: td.IsInternal, Partitions: []partitionInfo{}, Configs: []configInfo{}}
	for _, p := range td.Partitions.Sorted() {
		pi := partitionInfo{Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, Replicas: p.Replicas, ISR: p.ISR,
			Start: -1, End: -1, LocalStart: -1, RemoteEnd: -1, LocalBytes: -1, RemoteBytes: -1}
		if p.Err != nil {
			pi.Error = codeOf(p.Err)
		}
		info.Partitions = append(info.Partitions, pi)
	}
	if err := d.offsets(ctx, name, info.Partitions); err != nil {
		return topicInfo{}, err
	}
	d.sizes(ctx, name, info.Partitions)
	return info, d.configs(ctx, name, &info)
}

// offsets fills in what ListOffsets tells.
func (d describer) offsets(ctx context.Context, name string, parts []partitionInfo) error {
	for _, l := range []struct {
		list func(context.Context, ...string) (kadm.ListedOffsets, error)
		put  func(*partitionInfo, int64)
		need bool
	}{
		{d.adm.ListStartOffsets, func(p *partitionInfo, o int64) { p.Start = o }, true},
		{d.adm.ListEndOffsets, func(p *partitionInfo, o int64) { p.End = o }, true},
		{d.adm.ListLocalLogStartOffsets, func(p *partitionInfo, o int64) { p.LocalStart = o }, false},
		// -5 gives the last offset that is tiered; the end is one more.
		{d.adm.ListLatestRemoteOffsets, func(p *partitionInfo, o int64) {
			if o >= 0 {
				p.RemoteEnd = o + 1
			}
		}, false},
	} {
		listed, err := l.list(ctx, name)
		if err != nil {
			if l.need {
				return d.app.explain("offsets of topic "+name, err, "")
			}
			continue // another broker than Firn may not know these
		}
		for i := range parts {
			o, ok := listed.Lookup(name, parts[i].Partition)
			switch {
			case !ok:
			case o.Err == nil:
				l.put(&parts[i], o.Offset)
			case l.need && parts[i].Error == "":
				parts[i].Error = codeOf(o.Err)
			}
		}
	}
	return nil
}

// sizes fills in what the broker's HTTP address tells, if it can be reached.
func (d describer) sizes(ctx context.Context, name string, parts []partitionInfo) {
	if d.http == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, st, err := fetchTier(ctx, d.http, name)
	if err != nil {
		return
	}
	for i := range parts {
		for _, s := range st.Partitions {
			if s.Partition == parts[i].Partition {
				parts[i].LocalBytes, parts[i].RemoteBytes = s.LocalBytes, s.RemoteBytes
			}
		}
	}
}

func (d describer) configs(ctx context.Context, name string, info *topicInfo) error {
	rcs, err := d.adm.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return d.app.explain("configs of topic "+name, err, "")
	}
	rc, err := rcs.On(name, nil)
	if err == nil {
		err = rc.Err
	}
	if err != nil {
		return d.app.explain("configs of topic "+name, err, rc.ErrMessage)
	}
	for _, c := range rc.Configs {
		if c.Source != kmsg.ConfigSourceDynamicTopicConfig && !d.allConfigs {
			continue
		}
		info.Configs = append(info.Configs, configInfo{c.Key, c.MaybeValue(), strings.ToLower(c.Source.String())})
	}
	slices.SortFunc(info.Configs, func(a, b configInfo) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

func (a *app) printTopic(info topicInfo) error {
	fmt.Fprintf(a.out, "topic %s, %s, id %s\n\n", info.Name, plural(len(info.Partitions), "partition"), info.ID)
	t := newTable(">PARTITION", ">LEADER", ">EPOCH", "ISR/REPLICAS", ">START", ">LOCAL FROM", ">REMOTE TO", ">END", ">LOCAL", ">REMOTE", "ERROR")
	for _, p := range info.Partitions {
		t.row(p.Partition, known(int64(p.Leader)), known(int64(p.LeaderEpoch)), ids(p.ISR)+"/"+ids(p.Replicas),
			known(p.Start), known(p.LocalStart), known(p.RemoteEnd), known(p.End), size(p.LocalBytes), size(p.RemoteBytes), p.Error)
	}
	if !slices.ContainsFunc(info.Partitions, func(p partitionInfo) bool { return p.Error != "" }) {
		t.dropLast()
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	if len(info.Configs) == 0 {
		fmt.Fprintln(a.out, "\nall configs have their default values; see them with --all-configs")
		return nil
	}
	fmt.Fprintln(a.out)
	c := newTable("CONFIG", "VALUE", "SET BY")
	for _, x := range info.Configs {
		c.row(x.Name, x.Value, x.Source)
	}
	return c.print(a.out)
}

func known(n int64) string {
	if n < 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

func size(n int64) string {
	if n < 0 {
		return "-"
	}
	return bytesText(n)
}

func ids(all []int32) string {
	var s []string
	for _, n := range all {
		s = append(s, strconv.Itoa(int(n)))
	}
	return strings.Join(s, ",")
}
