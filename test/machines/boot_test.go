package machines

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/machine"
	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/gcs"
	"github.com/firnlog/firn/objectstore/s3"
	"github.com/firnlog/firn/objectstore/storetest/servers"
)

var whole = flag.Bool("machines", false, "boot machines for real, which takes minutes (make test-machines)")

const brokers = 3

// fleet is a cluster of the lab and the cloud that it is in.
type fleet struct {
	*lab
	cloud    string
	store    objectstore.Store // the whole bucket
	machines []*vm
	wanted   machine.Fleet
}

// newFleet makes the cloud: store, role, places of three brokers.
func newFleet(t *testing.T, cloud string) *fleet {
	t.Helper()
	f := &fleet{cloud: cloud}
	ctx := t.Context()
	var role func() (string, error)
	var err error
	if cloud == machine.AWS {
		minio := servers.MinIO(t)
		t.Setenv("AWS_ACCESS_KEY_ID", minio.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", minio.SecretKey)
		f.store, err = s3.Open(ctx, s3.Config{Bucket: minio.Bucket, Region: "us-east-1", Endpoint: minio.Endpoint, PathStyle: true})
		f.lab = newLab(t, minio.Host)
		role = func() (string, error) { return assumeRole(minio) }
	} else {
		fake := servers.FakeGCS(t)
		t.Setenv("STORAGE_EMULATOR_HOST", fake.Host)
		f.store, err = gcs.Open(ctx, gcs.FromURL(objectstore.URL{Scheme: "gs", Bucket: fake.Bucket}))
		f.lab = newLab(t, fake.Host)
		role = func() (string, error) {
			return `{"access_token":"ya29.lab","expires_in":3599,"token_type":"Bearer"}`, nil
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.store.Close() })
	f.wanted = machine.Fleet{Cluster: "lab", Machines: map[string]string{}}
	for id := 1; id <= brokers; id++ {
		f.machines = append(f.machines, f.newVM(id, cloud == machine.GCP, role))
		f.wanted.Machines[fmt.Sprint(id)] = "m1"
	}
	return f
}

// assumeRole gives credentials for an hour, with a session token, in the form
// in which EC2's metadata has them. MinIO issues them, and checks them.
func assumeRole(minio servers.S3) (string, error) {
	cmd := exec.Command("curl", "--silent", "--show-error", "--fail", "--config", "-", "--aws-sigv4", "aws:amz:us-east-1:sts",
		"--data", "Action=AssumeRole&Version=2011-06-15&DurationSeconds=3600", minio.Endpoint+"/")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("user = %q\n", minio.AccessKey+":"+minio.SecretKey))
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("AssumeRole: %w", err)
	}
	field := func(name string) string {
		_, rest, _ := strings.Cut(string(out), "<"+name+">")
		value, _, _ := strings.Cut(rest, "</"+name+">")
		return value
	}
	b, err := json.Marshal(map[string]string{
		"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": time.Now().UTC().Format(time.RFC3339),
		"AccessKeyId": field("AccessKeyId"), "SecretAccessKey": field("SecretAccessKey"), "Token": field("SessionToken"), "Expiration": field("Expiration"),
	})
	return string(b), err
}

// binary builds firn with a version, and puts it into the bucket.
func (f *fleet) binary(version string) machine.Binary {
	f.t.Helper()
	path := filepath.Join(f.dir, "firn-"+version)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", path, "./cmd/firn")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		f.t.Fatalf("build firn: %v\n%s", err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.upload("firn-"+version, data)
}

func (f *fleet) upload(name string, data []byte) machine.Binary {
	f.t.Helper()
	key := "firn/binaries/" + name
	if _, err := f.store.Put(f.t.Context(), key, bytes.NewReader(data), int64(len(data))); err != nil {
		f.t.Fatal(err)
	}
	scheme := map[string]string{machine.AWS: "s3", machine.GCP: "gs"}[f.cloud]
	sum := sha256.Sum256(data)
	return machine.Binary{URL: fmt.Sprintf("%s://%s/%s", scheme, servers.Bucket, key), SHA256: hex.EncodeToString(sum[:])}
}

// apply writes the fleet file, as Terraform does.
func (f *fleet) apply() {
	f.t.Helper()
	data, err := json.Marshal(f.wanted)
	if err != nil {
		f.t.Fatal(err)
	}
	key, etag := "firn/"+machine.FleetKey, ""
	o, err := f.store.Head(f.t.Context(), key)
	if err == nil {
		etag = o.ETag
	} else if !errors.Is(err, objectstore.ErrNotFound) {
		f.t.Fatal(err)
	}
	if _, err := f.store.Swap(f.t.Context(), key, data, etag); err != nil {
		f.t.Fatal(err)
	}
}

// boot starts a broker's machine from the newest template.
func (f *fleet) boot(id int) {
	f.t.Helper()
	m := machineFile(f.cloud, id, f.wanted.Machines[fmt.Sprint(id)])
	if f.machines[id-1].network {
		m.Disk = machine.NetworkDisk
	}
	f.machines[id-1].boot(render(f.t, m))
}

// ready waits for a broker's /readyz.
func (f *fleet) ready(within time.Duration, ids ...int) time.Duration {
	f.t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: f.dial, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	return f.eventually(within, fmt.Sprintf("brokers %v are ready", ids), f.machines, func() error {
		for _, id := range ids {
			resp, err := client.Get(fmt.Sprintf("http://%s:%d/readyz", hostOf(id), machine.HTTPPort))
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("broker %d: %s", id, resp.Status)
			}
		}
		return nil
	})
}

// firn runs a command of the command line where clients stand.
func (f *fleet) firn(args ...string) (string, error) {
	line := append([]string{"ip", "netns", "exec", f.hub(), f.cli()}, args...)
	return tryRun(time.Minute, append(line, "--brokers", f.bootstrap())...)
}

func (f *fleet) cli() string { return filepath.Join(f.dir, "firn-1.0.0") }

func (f *fleet) bootstrap() string {
	var all []string
	for id := 1; id <= brokers; id++ {
		all = append(all, fmt.Sprintf("%s:%d", hostOf(id), machine.KafkaPort))
	}
	return strings.Join(all, ",")
}

// inSync waits until restart-check has nothing to say.
func (f *fleet) inSync(within time.Duration) time.Duration {
	f.t.Helper()
	return f.eventually(within, "all is in sync", f.machines, func() error {
		_, err := f.firn("cluster", "restart-check", "1")
		return err
	})
}

// deployments are what the brokers run as.
func (f *fleet) deployments() (map[int]string, error) {
	out, err := f.firn("cluster", "nodes", "--output", "json")
	if err != nil {
		return nil, err
	}
	var nodes []struct {
		ID         int
		Deployment string
		State      string
	}
	if err := json.Unmarshal([]byte(out), &nodes); err != nil {
		return nil, fmt.Errorf("%w in %s", err, out)
	}
	all := map[int]string{}
	for _, n := range nodes {
		if n.State == "in sync" {
			all[n.ID] = n.Deployment
		}
	}
	return all, nil
}

// writer writes numbered records with acks=all until it is stopped, and keeps
// which of them were acknowledged.
type writer struct {
	cl    *kgo.Client
	stop  context.CancelFunc
	done  chan struct{}
	mu    sync.Mutex // guards what follows
	acked map[string]bool
	errs  []error
	worst time.Duration // the longest that a record waited for its acknowledgement
}

const topic = "orders"

func (f *fleet) client(opts ...kgo.Opt) *kgo.Client {
	f.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(strings.Split(f.bootstrap(), ",")...), kgo.Dialer(f.dial), kgo.DisableClientMetrics(), kgo.MetadataMinAge(100 * time.Millisecond)}, opts...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	return cl
}

func (f *fleet) write(prefix string) *writer {
	f.t.Helper()
	w := &writer{cl: f.client(kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordDeliveryTimeout(2*time.Minute)), done: make(chan struct{}), acked: map[string]bool{}}
	var ctx context.Context
	ctx, w.stop = context.WithCancel(context.Background())
	go func() {
		defer close(w.done)
		filler := strings.Repeat("x", 8000)
		for n := 0; ctx.Err() == nil; n++ {
			key, began := fmt.Sprintf("%s-%d", prefix, n), time.Now()
			w.cl.Produce(context.Background(), &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(filler)}, func(_ *kgo.Record, err error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				if err != nil {
					w.errs = append(w.errs, err)
					return
				}
				w.acked[key] = true
				w.worst = max(w.worst, time.Since(began))
			})
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		_ = w.cl.Flush(context.Background())
		w.cl.Close()
	}()
	f.t.Cleanup(func() { w.stop(); <-w.done })
	return w
}

// end stops writing and gives the keys that were acknowledged.
func (w *writer) end(t *testing.T) map[string]bool {
	t.Helper()
	w.stop()
	<-w.done
	for _, err := range w.errs {
		t.Errorf("a record was not written: %v", err)
		break
	}
	return w.acked
}

// read reads the whole topic and wants each key that was acknowledged, once.
func (f *fleet) read(acked map[string]bool) {
	f.t.Helper()
	cl := f.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(f.t.Context(), 3*time.Minute)
	defer cancel()
	seen := map[string]int{}
	missing := len(acked)
	for missing > 0 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			f.t.Fatalf("%d of %d records that were acknowledged are not read", missing, len(acked))
		}
		fetches.EachRecord(func(r *kgo.Record) {
			key := string(r.Key)
			if seen[key]++; seen[key] == 1 && acked[key] {
				missing--
			}
			if seen[key] == 2 {
				f.t.Errorf("%s is there twice", key)
			}
		})
	}
}

func (f *fleet) must(out string, err error) string {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// tiered waits until something of the topic is in the bucket.
func (f *fleet) tiered(within time.Duration) {
	f.t.Helper()
	f.eventually(within, "records are in the object store", f.machines, func() error {
		for o, err := range f.store.List(f.t.Context(), "firn/", "") {
			if err != nil {
				return err
			}
			dir, _, _ := strings.Cut(strings.TrimPrefix(o.Key, "firn/"), "/")
			if dir != "binaries" && dir != "fleet" && dir != "cluster" && o.Size > 100_000 {
				return nil
			}
		}
		return errors.New("there is no object of them")
	})
}

func skipUnlessWhole(t *testing.T) {
	t.Helper()
	if !*whole {
		t.Skip("NOT RUN without -machines: THE BOOT OF MACHINES IS NOT TESTED (make test-machines)")
	}
}

// TestBoot is a cluster's life on AWS: machines boot from their user data; one
// is lost with its disk and replaced; another binary, and another machine, are
// rolled out; a spot notice drains one. All the while a producer writes.
func TestBoot(t *testing.T) {
	skipUnlessWhole(t)
	f := newFleet(t, machine.AWS)
	first, second := f.binary("1.0.0"), f.binary("1.1.0")
	f.wanted.Binary = first
	f.apply()
	for id := 1; id <= brokers; id++ {
		f.boot(id)
	}
	took := f.ready(5*time.Minute, 1, 2, 3)
	t.Logf("FIGURE: three machines at once, from boot to ready: %v", took.Round(100*time.Millisecond))
	f.must(f.firn("topic", "create", topic, "--partitions", "6", "--replicas", "3", "--config", "min.insync.replicas=2", "--config", "segment.bytes=1048576", "--config", "remote.storage.enable=true", "--config", "local.retention.ms=1000"))
	f.bootedWell()
	w := f.write("w")
	f.tiered(2 * time.Minute)
	f.loseMachine()
	f.reboot()
	f.rollBroken()
	f.roll(second)
	f.notice()
	f.replaceByTemplate()
	acked := w.end(t)
	f.inSync(2 * time.Minute)
	f.read(acked)
	t.Logf("FIGURE: %d records acknowledged, all read; the slowest acknowledgement took %v", len(acked), w.worst.Round(10*time.Millisecond))
	for _, v := range f.machines {
		if v.meta.denied > 0 {
			t.Errorf("machine of broker %d asked its metadata %d times without a token", v.id, v.meta.denied)
		}
	}
}

// bootedWell looks whether cloud-init has nothing to complain of, and whether
// preparing a machine that is ready changes anything.
func (f *fleet) bootedWell() {
	f.t.Helper()
	for _, v := range f.machines {
		out := f.must(v.sh("cloud-init status --wait --long"))
		if !strings.Contains(out, "status: done") {
			f.t.Errorf("machine of broker %d: cloud-init says %s", v.id, out)
		}
		out = f.must(v.sh("firn machine up --output json"))
		var r machine.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil || r.Formatted || r.Mounted || r.Started || len(r.Changed) > 0 {
			f.t.Errorf("firn machine up on a machine that is ready: %v\n%s", err, out)
		}
		out = f.must(v.sh("findmnt --noheadings --output FSTYPE,LABEL,OPTIONS /var/lib/firn && stat --format=%U /var/lib/firn/etcd && systemctl --failed --no-legend"))
		if !strings.Contains(out, "xfs") || !strings.Contains(out, "noatime") || strings.Contains(out, ".service") || !strings.Contains(out, "firn\n") {
			f.t.Errorf("machine of broker %d:\n%s", v.id, out)
		}
	}
}

// reboot restarts a whole machine: the script runs again, and the disk is taken
// as it is.
func (f *fleet) reboot() {
	f.t.Helper()
	v := f.machines[0]
	const bootID = "systemctl show --property=UserspaceTimestampMonotonic --value"
	before := f.must(v.sh(bootID))
	began := time.Now()
	if _, err := v.sh("systemctl reboot"); err != nil {
		f.t.Fatal(err)
	}
	f.eventually(3*time.Minute, "the machine was rebooted", f.machines, func() error {
		out, err := v.sh(bootID)
		if err == nil && out == before {
			err = errors.New("it is the same")
		}
		if err == nil {
			_, err = v.sh("systemctl is-active firn")
		}
		return err
	})
	f.ready(3*time.Minute, 1)
	f.inSync(3 * time.Minute)
	f.t.Logf("FIGURE: a machine rebooted, until all is in sync: %v", time.Since(began).Round(100*time.Millisecond))
	if out := f.must(v.sh("journalctl --no-pager --boot -u firn-boot")); !strings.Contains(out, "mounted at /var/lib/firn") || strings.Contains(out, "formatted") {
		f.t.Errorf("after the reboot:\n%s", out)
	}
}

// rollBroken gives the fleet a binary that says its version and does not run as
// a broker: one broker is lost to it, and the others are not touched.
func (f *fleet) rollBroken() {
	f.t.Helper()
	f.inSync(2 * time.Minute)
	before, err := f.deployments()
	if err != nil {
		f.t.Fatal(err)
	}
	f.wanted.Binary = f.upload("broken", []byte("#!/bin/sh\n[ \"$1\" = version ] && exit 0\n[ \"$1\" = machine ] && exec /usr/local/bin/firn.before \"$@\"\necho broken >&2\nexit 1\n"))
	f.apply()
	f.eventually(2*time.Minute, "broker 1 tries the broken binary", f.machines, func() error {
		out, _ := f.machines[0].sh("journalctl --no-pager -n 5 -u firn")
		if !strings.Contains(out, "broken") {
			return errors.New(out)
		}
		return nil
	})
	for began := time.Now(); time.Since(began) < 70*time.Second; time.Sleep(time.Second) { // two looks of each at the fleet file
		all, err := f.deployments()
		if err != nil {
			continue
		}
		if all[1] != "" || all[2] == "" || all[3] == "" {
			continue // while broker 1's end is noticed
		}
		if all[2] != before[2] || all[3] != before[3] {
			f.t.Fatalf("with broker 1 lost to a broken binary the others run as %v", all)
		}
	}
	for _, v := range f.machines[1:] {
		if out := f.must(v.sh("systemctl show --property=NRestarts --property=ActiveState firn")); !strings.Contains(out, "ActiveState=active") || !strings.Contains(out, "NRestarts=0") {
			f.t.Errorf("broker %d: %s", v.id, out)
		}
		if sum := f.must(v.sh("sha256sum /usr/local/bin/firn")); strings.HasPrefix(sum, f.wanted.Binary.SHA256) {
			f.t.Errorf("broker %d has the broken binary in place", v.id)
		}
	}
}

// loseMachine destroys a machine with its disk and starts another one from the
// same user data: it comes back as the same broker, in sync.
func (f *fleet) loseMachine() {
	f.inSync(2 * time.Minute)
	lost := f.machines[1]
	began := time.Now()
	lost.destroy()
	f.boot(2)
	ready := f.ready(5*time.Minute, 2)
	f.inSync(5 * time.Minute)
	f.t.Logf("FIGURE: from the loss of a machine and its disk to ready: %v; to in sync: %v", ready.Round(100*time.Millisecond), time.Since(began).Round(100*time.Millisecond))
}

// roll gives the fleet another binary and waits until all brokers run it,
// looking that never two are away at once.
func (f *fleet) roll(to machine.Binary) {
	f.t.Helper()
	f.wanted.Binary = to
	f.apply()
	began, most := time.Now(), 0
	var order []int
	f.eventually(10*time.Minute, "all brokers run the new binary", f.machines, func() error {
		away := 0
		for _, v := range f.machines {
			if out, err := v.sh("systemctl is-active firn"); err != nil || strings.TrimSpace(out) != "active" {
				away++
			}
		}
		most = max(most, away)
		all, err := f.deployments()
		if err != nil {
			return err
		}
		left := 0
		for id := 1; id <= brokers; id++ {
			want, _ := f.wanted.Wanted(int32(id))
			if all[id] == want && !slices.Contains(order, id) {
				order = append(order, id)
			}
			if all[id] != want {
				left++
			}
		}
		if left > 0 {
			return fmt.Errorf("%d of them to go: %v", left, all)
		}
		return nil
	})
	if most > 1 {
		f.t.Errorf("%d brokers were away at once", most)
	}
	if !slices.Equal(order, []int{1, 2, 3}) {
		f.t.Errorf("the brokers went in the order %v", order)
	}
	f.t.Logf("FIGURE: a roll of another binary over three brokers: %v", time.Since(began).Round(time.Second))
	f.turnEnds()
}

// turnEnds waits until nobody has the turn.
func (f *fleet) turnEnds() {
	f.t.Helper()
	f.eventually(2*time.Minute, "the turn is given back", f.machines, func() error {
		body, err := f.store.GetRange(f.t.Context(), "firn/"+machine.TurnKey, 0, -1)
		if err != nil {
			return err
		}
		defer body.Close()
		var turn machine.Turn
		if err := json.NewDecoder(body).Decode(&turn); err != nil {
			return err
		}
		if turn.Broker != 0 {
			return fmt.Errorf("broker %d has it since %v", turn.Broker, turn.Since)
		}
		return nil
	})
}

// notice gives a machine notice of a spot interruption: its broker stops
// cleanly. Then it passes, and the broker is started again.
func (f *fleet) notice() {
	f.t.Helper()
	f.inSync(2 * time.Minute)
	v := f.machines[2]
	state := func(want string) func() error {
		return func() error {
			out, _ := v.sh("systemctl show --property=ActiveState --property=Result firn")
			if !strings.Contains(out, "ActiveState="+want) || !strings.Contains(out, "Result=success") {
				return errors.New(out)
			}
			return nil
		}
	}
	v.meta.set("spot/instance-action", `{"action": "terminate", "time": "2030-01-02T03:04:05Z"}`)
	took := f.eventually(time.Minute, "the broker is drained", f.machines, state("inactive"))
	f.t.Logf("FIGURE: from a spot notice to a broker that has stopped cleanly: %v", took.Round(100*time.Millisecond))
	if out, err := v.sh("journalctl --no-pager -u firn | grep -c 'stopped cleanly'"); err != nil {
		f.t.Errorf("the drained broker did not stop cleanly: %v %s", err, out)
	}
	v.meta.set("spot/instance-action", "")
	f.eventually(time.Minute, "the broker is started again", f.machines, state("active"))
	f.inSync(2 * time.Minute)
}

// replaceByTemplate gives one broker another machine: it powers itself off in
// its turn, and the cloud starts another one from the new template.
func (f *fleet) replaceByTemplate() {
	f.t.Helper()
	f.wanted.Machines["3"] = "m2"
	f.apply()
	began := time.Now()
	v := f.machines[2]
	f.eventually(5*time.Minute, "the machine powers itself off", f.machines, func() error {
		if !v.off() {
			return errors.New("it runs")
		}
		return nil
	})
	off := time.Since(began)
	v.destroy()
	f.boot(3)
	f.eventually(5*time.Minute, "the new machine's broker is in sync", f.machines, func() error {
		all, err := f.deployments()
		if want, _ := f.wanted.Wanted(3); err == nil && all[3] != want {
			err = fmt.Errorf("it runs as %q and should as %q", all[3], want)
		}
		return err
	})
	f.t.Logf("FIGURE: a machine replaced in its turn: off after %v, in sync after %v", off.Round(time.Second), time.Since(began).Round(time.Second))
	f.turnEnds()
}

// TestBootGCP boots the same machines as Google Cloud does, with its disks,
// metadata and store.
func TestBootGCP(t *testing.T) {
	skipUnlessWhole(t)
	f := newFleet(t, machine.GCP)
	f.machines[1].network = true
	good := f.binary("1.0.0")
	f.wanted.Binary = machine.Binary{URL: good.URL, SHA256: strings.Repeat("0", 64)}
	f.apply()
	for id := 1; id <= brokers; id++ {
		f.boot(id)
	}
	// A wrong checksum: no broker runs, the reason is told, and the machines
	// come up by themselves when it is corrected.
	f.eventually(2*time.Minute, "the wrong checksum is told", f.machines, func() error {
		for _, v := range f.machines {
			out, _ := v.sh("journalctl --no-pager -u firn-boot; ls /usr/local/bin")
			if !strings.Contains(out, "has not the SHA-256") || strings.HasSuffix(out, "\nfirn\n") {
				return errors.New(out)
			}
		}
		return nil
	})
	f.wanted.Binary = good
	f.apply()
	took := f.ready(5*time.Minute, 1, 2, 3)
	t.Logf("FIGURE: from a corrected fleet file to three brokers that are ready: %v", took.Round(100*time.Millisecond))
	f.must(f.firn("topic", "create", topic, "--partitions", "3", "--replicas", "3", "--config", "min.insync.replicas=2", "--config", "segment.bytes=1048576", "--config", "remote.storage.enable=true", "--config", "local.retention.ms=1000"))
	w := f.write("w")
	f.tiered(2 * time.Minute)
	v := f.machines[0]
	v.meta.set("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
	active := func(want string) func() error {
		return func() error {
			if out, _ := v.sh("systemctl show --property=ActiveState firn"); !strings.Contains(out, "="+want) {
				return errors.New(out)
			}
			return nil
		}
	}
	f.eventually(time.Minute, "the broker is drained", f.machines, active("inactive"))
	v.meta.set("maintenance-event", "NONE")
	f.eventually(time.Minute, "the broker is started again", f.machines, active("active"))
	f.inSync(2 * time.Minute)
	f.keepDisk()
	acked := w.end(t)
	f.inSync(2 * time.Minute)
	f.read(acked)
	if v.meta.denied > 0 {
		t.Errorf("the metadata was asked %d times without its header", v.meta.denied)
	}
}

// keepDisk destroys a machine whose disk is a network disk; the next one takes
// over what is on it.
func (f *fleet) keepDisk() {
	f.t.Helper()
	v := f.machines[1]
	id := f.must(v.sh("cat /proc/self/mountinfo | grep -c /var/lib/firn; blkid -s UUID -o value /dev/nvme0n1"))
	began := time.Now()
	v.destroy()
	f.boot(2)
	f.ready(5*time.Minute, 2)
	f.inSync(5 * time.Minute)
	f.t.Logf("FIGURE: from the loss of a machine whose disk stays to in sync: %v", time.Since(began).Round(100*time.Millisecond))
	if again := f.must(v.sh("cat /proc/self/mountinfo | grep -c /var/lib/firn; blkid -s UUID -o value /dev/nvme0n1")); again != id {
		f.t.Errorf("the disk's file system was %q and is %q", id, again)
	}
}
