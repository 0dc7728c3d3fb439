package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/firnlog/firn/bench/observe"
)

// sizes is what the brokers take, all three of them where it does not say.
type sizes struct {
	rss      [brokers]float64 // MiB
	cpu      [brokers]float64 // seconds since the start
	revision float64          // of etcd: one for each write
	inUse    float64          // bytes of etcd's file
}

func (c *cluster) sizes(ctx context.Context) (s sizes, err error) {
	for i, cmd := range c.all {
		rss, _, err := observe.Memory(cmd.Process.Pid)
		if err != nil {
			return s, err
		}
		s.rss[i] = float64(rss) / (1 << 20)
		if s.cpu[i], err = observe.CPU(cmd.Process.Pid); err != nil {
			return s, err
		}
		m, err := observe.Metrics(ctx, c.http[i])
		if err != nil {
			return s, err
		}
		s.revision = max(s.revision, m["firn_metastore_image_revision"])
		s.inUse = max(s.inUse, m["firn_metastore_db_in_use_bytes"])
	}
	return s, nil
}

// idle says what the brokers take while nothing is asked of them.
func (c *cluster) idle(ctx context.Context, d time.Duration) error {
	before, err := c.sizes(ctx)
	if err != nil {
		return err
	}
	time.Sleep(d)
	after, err := c.sizes(ctx)
	if err != nil {
		return err
	}
	var rss, cpu []string
	for i := range c.all {
		rss = append(rss, fmt.Sprintf("%.0f", after.rss[i]))
		cpu = append(cpu, fmt.Sprintf("%.3f", (after.cpu[i]-before.cpu[i])/d.Seconds()))
	}
	fmt.Printf("idle for %v: memory %s MiB, CPU %s s/s, etcd %.1f MB in use, %.2f writes/s\n",
		d, strings.Join(rss, " + "), strings.Join(cpu, " + "), after.inUse/1e6, (after.revision-before.revision)/d.Seconds())
	return nil
}
