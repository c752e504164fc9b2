// testplane is a one-binary Kubernetes control plane for tests on loopback:
// embedded etcd + kube-apiserver (RBAC, no anonymous requests), optionally
// kube-controller-manager, kube-scheduler and kwok as child processes, and kubectl.
//
//	testplane [flags] [-- kube-apiserver flags]   start; prints one JSON line when ready; SIGTERM stops
//	testplane compact DIR                         compact etcd up to now (old watches and continue tokens get 410)
//	testplane put DIR KEY                         store the standard input in etcd, as an older API server left it
//	testplane kubectl ARG...                      kubectl (also when the program is called "kubectl")
//	testplane kubelet|kube-proxy ARG...           the programs of a real node (tests/system/node)
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kubeproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const defaultControllers = "serviceaccount-controller,root-ca-certificate-publisher-controller,namespace-controller," +
	"garbage-collector-controller,clusterrole-aggregation-controller,replicaset-controller,deployment-controller," +
	"daemonset-controller,statefulset-controller,job-controller,endpointslice-controller"

var say = log.New(os.Stderr, "testplane: ", 0) // not the standard logger: the components redirect that

func must[T any](v T, err error) T { check(err); return v }
func check(err error) {
	if err != nil {
		say.Fatal(err)
	}
}

func main() {
	args := append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...)
	if args[0] != "kubectl" && len(args) > 1 {
		args = args[1:]
	}
	commands := map[string]func() *cobra.Command{
		"kubectl": kubectl.NewDefaultKubectlCommand, "kube-apiserver": apiserver.NewAPIServerCommand,
		"kube-controller-manager": kcm.NewControllerManagerCommand,
		"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
		"kube-proxy":              kubeproxy.NewProxyCommand,
	}
	if newCommand, ok := commands[args[0]]; ok {
		os.Args = append([]string{args[0]}, args[1:]...)
		command := newCommand()
		command.SetArgs(args[1:])
		os.Exit(cli.Run(command))
	}
	switch {
	case args[0] == "kwok":
		runKwok(args[1:])
	case args[0] == "compact" && len(args) == 2:
		compact(args[1])
	case args[0] == "put" && len(args) == 3:
		put(args[1], args[2], must(io.ReadAll(os.Stdin)))
	default:
		os.Exit(up())
	}
}

func up() int {
	start, temporary := time.Now(), false
	dir := flag.String("dir", "", "state folder, kept and reused (default: a temporary one, removed at stop)")
	port := flag.Int("port", 0, "API server port on 127.0.0.1 (0: a free one)")
	serve := flag.String("serve", "", "further addresses of the API server, separated by commas, for its certificate")
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig written when ready (default DIR/kubeconfig)")
	controllers := flag.String("controllers", defaultControllers, "controllers to run, or none (ServiceAccount admission is then off)")
	schedule := flag.Bool("scheduler", false, "run kube-scheduler")
	nodes := flag.Bool("kwok", false, "run kwok on all nodes: they become Ready and their pods Running, without a kubelet")
	stdin := flag.Bool("stop-on-stdin-eof", false, "stop when standard input closes, so never outlive a parent")
	flag.Parse()

	if *dir == "" {
		*dir = must(os.MkdirTemp("", "testplane-"))
		temporary = true
	}
	*dir = must(filepath.Abs(*dir))
	check(os.MkdirAll(*dir, 0o700))
	in := func(name string) string { return filepath.Join(*dir, name) }
	if *kubeconfig == "" {
		*kubeconfig = in("kubeconfig")
	}
	_ = os.Remove(*kubeconfig)
	logfile := must(os.OpenFile(in("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600))
	say.SetOutput(os.NewFile(uintptr(must(syscall.Dup(2))), "stderr"))
	check(syscall.Dup3(int(logfile.Fd()), 2, 0)) // the components log to stderr, we to what it was
	for *port == 0 {                             // below the range from which the kernel gives ports to everybody's connections and listeners
		try := 20000 + rand.IntN(12000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", try)); err == nil {
			check(l.Close())
			*port = try
		}
	}
	server := fmt.Sprintf("https://127.0.0.1:%d", *port)
	if _, err := os.Stat(in("admin.crt")); err != nil {
		var addresses []net.IP
		for _, each := range strings.FieldsFunc(*serve, func(r rune) bool { return r == ',' }) {
			addresses = append(addresses, net.ParseIP(each))
		}
		makePKI(*dir, addresses)
	}

	cfg := embed.NewConfig()
	cfg.Dir, cfg.UnsafeNoFsync, cfg.LogLevel, cfg.LogOutputs = in("etcd"), true, "error", []string{"stderr"}
	free := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls, cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = free, free, free, free
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	etcd := must(embed.StartEtcd(cfg))
	<-etcd.Server.ReadyNotify()
	etcdURL := "http://" + etcd.Clients[0].Addr().String()
	check(os.WriteFile(in("etcd-url"), []byte(etcdURL), 0o600))

	apiArgs := []string{
		"--etcd-servers=" + etcdURL, "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", *port),
		"--tls-cert-file=" + in("server.crt"), "--tls-private-key-file=" + in("server.key"),
		"--client-ca-file=" + in("ca.crt"), "--token-auth-file=" + in("tokens.csv"), "--anonymous-auth=false",
		"--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none",
		"--external-hostname=127.0.0.1", "--service-account-issuer=" + server,
		"--service-account-jwks-uri=" + server + "/openid/v1/jwks", "--service-account-signing-key-file=" + in("sa.key"),
		"--service-account-key-file=" + in("sa.key"), "--kubelet-client-certificate=" + in("admin.crt"),
		"--kubelet-client-key=" + in("admin.key"), "--allow-privileged=true", "--shutdown-watch-termination-grace-period=1s",
	}
	if *controllers == "none" { // no controller creates the "default" service account that each pod requires
		apiArgs = append(apiArgs, "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition")
	} else if *nodes {
		*controllers += ",node-lifecycle-controller" // takes the not-ready taint off each new node
	} else {
		apiArgs = append(apiArgs, "--disable-admission-plugins=TaintNodesByCondition")
	}
	command := apiserver.NewAPIServerCommand() // also sets up SIGTERM and SIGINT to stop it
	command.SetArgs(append(apiArgs, flag.Args()...))
	stop, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)

	go func() {
		writeKubeconfig(*kubeconfig+".tmp", server, *dir)
		get := adminGetter(server, *dir)
		for !get("/readyz") {
			time.Sleep(20 * time.Millisecond)
		}
		own := "--kubeconfig=" + *kubeconfig + ".tmp"
		common := []string{own, "--leader-elect=false", "--secure-port=0",
			"--kube-api-qps=1000", "--kube-api-burst=2000", "--kube-api-content-type=application/vnd.kubernetes.protobuf"}
		if *controllers != "none" {
			child(stop, "kube-controller-manager", append(common, "--controllers="+*controllers,
				"--root-ca-file="+in("ca.crt"), "--service-account-private-key-file="+in("sa.key")))
			for !get("/api/v1/namespaces/default/serviceaccounts/default") {
				time.Sleep(20 * time.Millisecond)
			}
		}
		if *schedule {
			child(stop, "kube-scheduler", common)
		}
		if *nodes {
			check(os.WriteFile(in("kwok.yaml"), []byte(kwokStages()), 0o600))
			child(stop, "kwok", []string{own, "--config=" + in("kwok.yaml"), "--manage-all-nodes=true",
				"--node-lease-duration-seconds=40", "--node-ip=127.0.0.1", "--cidr=10.200.0.1/16"})
		}
		writeKubeconfig(*kubeconfig+".new", server, *dir)
		check(os.Rename(*kubeconfig+".new", *kubeconfig))
		check(json.NewEncoder(os.Stdout).Encode(map[string]any{"kubeconfig": *kubeconfig, "server": server, "dir": *dir,
			"pid": os.Getpid(), "ready_ms": time.Since(start).Milliseconds()}))
		if *stdin {
			_, _ = io.Copy(io.Discard, os.Stdin)
			check(syscall.Kill(os.Getpid(), syscall.SIGTERM))
		}
	}()
	ended := make(chan error, 1)
	go func() { ended <- command.Execute() }()
	var err error
	select {
	case err = <-ended:
	case <-stop.Done():
		select {
		case err = <-ended:
		case <-time.After(5 * time.Second): // a client holds a request open: no reason to wait for it
		}
	}
	etcd.Close()
	_ = os.Remove(*kubeconfig)
	_ = os.Remove(*kubeconfig + ".tmp")
	if err != nil {
		say.Printf("%v; see %s", err, in("log"))
		return 1
	}
	if temporary {
		_ = os.RemoveAll(*dir)
	}
	return 0
}

// child runs this program again as another component until stop, or until we end, however we end.
// If it ends by itself, so do we.
func child(stop context.Context, name string, args []string) {
	cmd := exec.CommandContext(stop, must(os.Executable()), append([]string{name}, args...)...)
	cmd.Stderr, cmd.SysProcAttr = os.Stderr, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	go func() {
		runtime.LockOSThread() // Pdeathsig follows the thread that forked
		if err := cmd.Run(); stop.Err() == nil {
			say.Printf("%s ended: %v", name, err)
			check(syscall.Kill(os.Getpid(), syscall.SIGTERM))
		}
	}()
}

func adminGetter(server, dir string) func(string) bool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(must(os.ReadFile(filepath.Join(dir, "ca.crt"))))
	cert := must(tls.LoadX509KeyPair(filepath.Join(dir, "admin.crt"), filepath.Join(dir, "admin.key")))
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}}}
	return func(path string) bool {
		res, err := client.Get(server + path)
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	}
}

func writeKubeconfig(path, server, dir string) {
	b64 := func(name string) string {
		return base64.StdEncoding.EncodeToString(must(os.ReadFile(filepath.Join(dir, name))))
	}
	check(os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: testplane
clusters: [{name: testplane, cluster: {server: %q, certificate-authority-data: %s}}]
contexts: [{name: testplane, context: {cluster: testplane, user: admin}}]
users: [{name: admin, user: {client-certificate-data: %s, client-key-data: %s}}]
`, server, b64("ca.crt"), b64("admin.crt"), b64("admin.key")), 0o600))
}

func compact(dir string) {
	ctx, client, end := etcdClient(dir)
	defer end()
	revision := must(client.Get(ctx, "compact", clientv3.WithCountOnly())).Header.Revision
	must(client.Compact(ctx, revision, clientv3.WithCompactPhysical()))
	fmt.Println(revision)
}

func put(dir, key string, value []byte) {
	ctx, client, end := etcdClient(dir)
	defer end()
	must(client.Put(ctx, key, string(value)))
}

func etcdClient(dir string) (context.Context, *clientv3.Client, func()) {
	endpoint := string(bytes.TrimSpace(must(os.ReadFile(filepath.Join(dir, "etcd-url")))))
	client := must(clientv3.New(clientv3.Config{Endpoints: strings.Split(endpoint, ","), DialTimeout: 5 * time.Second}))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	return ctx, client, func() { cancel(); check(client.Close()) }
}
