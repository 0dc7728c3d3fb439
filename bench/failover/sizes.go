package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// sizes is what the brokers take, all three of them where it does not say.
type sizes struct {
	rss      [brokers]float64 // MiB
	cpu      [brokers]float64 // seconds since the start
	revision float64          // of etcd: one for each write
	inUse    float64          // bytes of etcd's file
}

func (c *cluster) sizes() (s sizes, err error) {
	for i, cmd := range c.all {
		dir := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
		if s.rss[i], err = residentMiB(dir + "status"); err != nil {
			return s, err
		}
		if s.cpu[i], err = cpuSeconds(dir + "stat"); err != nil {
			return s, err
		}
		m, err := metricsOf(c.http[i])
		if err != nil {
			return s, err
		}
		s.revision = max(s.revision, m["firn_metastore_image_revision"])
		s.inUse = max(s.inUse, m["firn_metastore_db_in_use_bytes"])
	}
	return s, nil
}

func residentMiB(path string) (float64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kib, err := strconv.ParseFloat(strings.Fields(rest + " none")[0], 64)
	return kib / 1024, err
}

// cpuSeconds is user and system time (proc_pid_stat(5)), in hundredths there.
func cpuSeconds(path string) (float64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("%s: %q", path, b)
	}
	user, err := strconv.ParseFloat(f[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100, err
}

// metricsOf reads those metrics of a broker that have no labels.
func metricsOf(addr string) (map[string]float64, error) {
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	m := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				m[name] = v
			}
		}
	}
	return m, nil
}

// idle says what the brokers take while nothing is asked of them.
func (c *cluster) idle(d time.Duration) error {
	before, err := c.sizes()
	if err != nil {
		return err
	}
	time.Sleep(d)
	after, err := c.sizes()
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
