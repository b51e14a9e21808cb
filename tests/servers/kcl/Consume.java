import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.http.Protocol;
import software.amazon.awssdk.http.async.SdkAsyncHttpClient;
import software.amazon.awssdk.http.nio.netty.NettyNioAsyncHttpClient;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.cloudwatch.CloudWatchAsyncClient;
import software.amazon.awssdk.services.dynamodb.DynamoDbAsyncClient;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.kinesis.common.ConfigsBuilder;
import software.amazon.kinesis.common.InitialPositionInStream;
import software.amazon.kinesis.common.InitialPositionInStreamExtended;
import software.amazon.kinesis.coordinator.CoordinatorConfig.ClientVersionConfig;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.lifecycle.events.InitializationInput;
import software.amazon.kinesis.lifecycle.events.LeaseLostInput;
import software.amazon.kinesis.lifecycle.events.ProcessRecordsInput;
import software.amazon.kinesis.lifecycle.events.ShardEndedInput;
import software.amazon.kinesis.lifecycle.events.ShutdownRequestedInput;
import software.amazon.kinesis.metrics.MetricsLevel;
import software.amazon.kinesis.metrics.NullMetricsFactory;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.processor.SingleStreamTracker;
import software.amazon.kinesis.retrieval.KinesisClientRecord;
import software.amazon.kinesis.retrieval.polling.PollingConfig;

/**
 * A worker of the Kinesis Client Library that tells each record it is given, a line each ("record SHARD SEQUENCE SUB DATA"). After so many
 * it checkpoints the last one, takes nothing more, and stops; shards that end are checkpointed as ended ("ended SHARD").
 */
public final class Consume {
  private static int left;
  private static CountDownLatch enough;

  private Consume() {}

  /** @param given URL of Kinesis, URL of DynamoDB, stream, lease table, worker, how many records, seconds to wait for them */
  public static void main(String[] given) throws Exception {
    left = Integer.parseInt(given[5]);
    enough = new CountDownLatch(1);
    Region region = Region.US_EAST_1;
    StaticCredentialsProvider keys = StaticCredentialsProvider.create(AwsBasicCredentials.create("test", "test"));
    SdkAsyncHttpClient http = NettyNioAsyncHttpClient.builder().protocol(Protocol.HTTP1_1).maxConcurrency(50).build();
    KinesisAsyncClient kinesis =
        KinesisAsyncClient.builder().region(region).credentialsProvider(keys).httpClient(http).endpointOverride(URI.create(given[0])).build();
    DynamoDbAsyncClient tables =
        DynamoDbAsyncClient.builder().region(region).credentialsProvider(keys).httpClient(http).endpointOverride(URI.create(given[1])).build();
    // Never asked: metrics are off.
    CloudWatchAsyncClient metrics =
        CloudWatchAsyncClient.builder().region(region).credentialsProvider(keys).httpClient(http).endpointOverride(URI.create(given[1])).build();
    SingleStreamTracker stream =
        new SingleStreamTracker(given[2], InitialPositionInStreamExtended.newInitialPosition(InitialPositionInStream.TRIM_HORIZON));
    ConfigsBuilder configs = new ConfigsBuilder(stream, given[3], kinesis, tables, metrics, given[4], Processor::new);
    PollingConfig polling = new PollingConfig(given[2], kinesis);
    polling.idleTimeBetweenReadsInMillis(200);
    Scheduler scheduler =
        new Scheduler(
            configs.checkpointConfig(),
            configs.coordinatorConfig().clientVersionConfig(ClientVersionConfig.valueOf(System.getProperty("version"))),
            configs.leaseManagementConfig().failoverTimeMillis(1000L).shardSyncIntervalMillis(1000L),
            configs.lifecycleConfig(),
            configs.metricsConfig().metricsLevel(MetricsLevel.NONE).metricsFactory(new NullMetricsFactory()),
            configs.processorConfig(),
            configs.retrievalConfig().retrievalSpecificConfig(polling));
    Thread thread = new Thread(scheduler, "scheduler");
    thread.setDaemon(true);
    thread.start();
    boolean done = enough.await(Long.parseLong(given[6]), TimeUnit.SECONDS);
    scheduler.startGracefulShutdown().get(20, TimeUnit.SECONDS);
    tell(done ? "stopped" : "missing " + left);
    // Its pools would keep the process for a minute.
    Runtime.getRuntime().halt(done ? 0 : 1);
  }

  private static synchronized void tell(String line) {
    System.out.println(line);
    System.out.flush();
  }

  /** Whether this record is one of those that are wanted, and is now counted. */
  private static synchronized boolean count() {
    if (left == 0) {
      return false;
    }
    left--;
    return true;
  }

  private static synchronized boolean over() {
    return left == 0;
  }

  private static final class Processor implements ShardRecordProcessor {
    private String shard;

    @Override
    public void initialize(InitializationInput input) {
      shard = input.shardId();
      tell("begun " + shard + " " + input.extendedSequenceNumber().sequenceNumber());
    }

    @Override
    public void processRecords(ProcessRecordsInput input) {
      KinesisClientRecord last = null;
      for (KinesisClientRecord record : input.records()) {
        if (!count()) {
          break;
        }
        last = record;
        String data = StandardCharsets.UTF_8.decode(record.data()).toString();
        tell("record " + shard + " " + record.sequenceNumber() + " " + record.subSequenceNumber() + " " + data);
      }
      try {
        if (last != null) {
          input.checkpointer().checkpoint(last.sequenceNumber(), last.subSequenceNumber());
        }
      } catch (Exception error) {
        throw new IllegalStateException(error);
      }
      if (over()) {
        enough.countDown();
      }
    }

    @Override
    public void leaseLost(LeaseLostInput input) {
      tell("lost " + shard);
    }

    @Override
    public void shardEnded(ShardEndedInput input) {
      try {
        input.checkpointer().checkpoint();
      } catch (Exception error) {
        throw new IllegalStateException(error);
      }
      tell("ended " + shard);
    }

    @Override
    public void shutdownRequested(ShutdownRequestedInput input) {
      tell("asked to stop " + shard);
    }
  }
}
